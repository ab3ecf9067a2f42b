//! A virtual Pi as a test sees it: an image to build, a machine to boot, the outside world to act on, a console to read.
//! Everything goes through the scripts of `hardware/virtual-pi/`, as a person would use them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::wire::KEYS;
use tempfile::TempDir;

/// Machines that run at once. Each emulates two processors on its host's; with more of them on two cores every one of
/// them crawls, and the three of a crew must fit.
const MACHINES_AT_ONCE: u32 = 3;

/// From power-on to all services up: 12 s alone, some 40 s beside two others on two busy cores. This and the next only say when
/// a test gives up.
pub const BOOT: Duration = Duration::from_secs(240);

/// From the request to power off to the end: 8 s alone.
pub const SHUTDOWN: Duration = Duration::from_secs(180);

/// How long a command in the guest may take: `dpkg -i` took 165 s once on a busy host.
const ANSWER: Duration = Duration::from_secs(480);

/// How long a machine may run, if whoever started it does not end it. A first boot with cloud-init takes minutes of it, and so does
/// each `dpkg` on a busy host.
const RUN_SECONDS: &str = "1800";

static FREE: (Mutex<u32>, Condvar) = (Mutex::new(MACHINES_AT_ONCE), Condvar::new());

/// The right to run that many machines; taken in one go, so that two tests do not wait for each other's rest. It counts
/// within one process, as under `cargo test`; nextest has one a test, and `.config/nextest.toml` does the same there.
pub struct Places(u32);

impl Places {
    pub fn take(count: u32) -> Self {
        let free = FREE.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = FREE.1.wait_while(free, |free| *free < count).unwrap_or_else(PoisonError::into_inner);
        *free -= count;
        Self(count)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        *FREE.0.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        FREE.1.notify_all();
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn kit(script: &str) -> PathBuf {
    repository().join("hardware/virtual-pi").join(script)
}

/// An armv7 program of the profile `pi`, from the folder that `BEEHIVE_VPI_PROGRAMS` names.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("BEEHIVE_VPI_PROGRAMS").map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "BEEHIVE_VPI_PROGRAMS is not set: build the armv7 programs and name their folder, as ./test does:\n  \
             eval \"$(hardware/virtual-pi/toolchain)\"\n  cargo build --profile pi --target \
             armv7-unknown-linux-gnueabihf --no-default-features --bins --target-dir target/virtual-pi\n  \
             export BEEHIVE_VPI_PROGRAMS=$PWD/target/virtual-pi/armv7-unknown-linux-gnueabihf/pi"
        )
    });
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there: build it first", path.display());
    path
}

/// What lands on the card.
pub struct Card {
    name: String,
    files: BTreeMap<String, String>,
    daemon: bool,
    second_disk: bool,
    modules: Vec<&'static str>,
    programs: Vec<(PathBuf, &'static str)>,
    packages: Vec<PathBuf>,
    image_within: Option<&'static str>,
    ours: Ours,
}

/// What of beehive lies on the card.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    /// What `hardware/rootfs` and the programs are.
    Copied,
    /// Nothing, but what a package brings.
    Packaged,
}

impl Card {
    /// The final hook and the units that arm it, without the daemon: a test writes the feed record itself.
    pub fn with_hook_only(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            files: BTreeMap::new(),
            daemon: false,
            second_disk: false,
            modules: Vec::new(),
            programs: Vec::new(),
            packages: Vec::new(),
            image_within: None,
            ours: Ours::Copied,
        }
    }

    /// All of `hardware/rootfs` with both programs, and this configuration.
    pub fn with_daemon(name: &str, configuration: &str) -> Self {
        let mut card = Self { daemon: true, ..Self::with_hook_only(name) };
        card.files.insert("etc/beehive/beehive.toml".to_owned(), configuration.to_owned());
        for file in ["identity.toml", "crew.pub", "manifest.json"] {
            let text = fs::read_to_string(KEYS.node_dir(name).join(file)).unwrap();
            card.files.insert(format!("etc/beehive/identity/{file}"), text);
        }
        card
    }

    /// Nothing of ours: this configuration and the keys lie in `/root/etc`, for whoever installs a package.
    pub fn without_beehive(name: &str, configuration: &str) -> Self {
        let mut card = Self { ours: Ours::Packaged, ..Self::with_daemon(name, configuration) };
        let files = std::mem::take(&mut card.files);
        card.files = files.into_iter().map(|(path, text)| (path.replace("etc/beehive", "root/etc"), text)).collect();
        card
    }

    /// The same with its configuration where it counts.
    pub fn configured(mut self) -> Self {
        let files = std::mem::take(&mut self.files);
        self.files = files.into_iter().map(|(path, text)| (path.replace("root/etc", "etc/beehive"), text)).collect();
        self
    }

    /// A package that is installed while the image is made.
    pub fn package(mut self, deb: &Path) -> Self {
        self.packages.push(deb.to_owned());
        self
    }

    /// The same with one more file.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    /// An empty ext4 beside the card, as `/dev/vdb`; not mounted.
    pub fn second_disk(self) -> Self {
        Self { second_disk: true, ..self }
    }

    /// The kernel's module `kernel/PATH.ko` as `/PATH.ko` without its folders, for `insmod`.
    pub fn module(mut self, path: &'static str) -> Self {
        self.modules.push(path);
        self
    }

    /// A program at this place.
    pub fn program(mut self, from: &Path, to: &'static str) -> Self {
        self.programs.push((from.to_owned(), to));
        self
    }

    /// An ext4 image as a file on the card, at this place, for a loop device.
    pub fn image_within(self, path: &'static str) -> Self {
        Self { image_within: Some(path), ..self }
    }

    /// Builds the image in `dir`.
    fn write(&self, dir: &Path) -> PathBuf {
        let files = dir.join("files");
        match self.ours {
            Ours::Copied => {
                let tree = repository().join("hardware/rootfs/.");
                let copied = Command::new("cp").arg("-a").arg(tree).arg(&files).status();
                assert!(copied.is_ok_and(|status| status.success()), "cp of hardware/rootfs failed");
            }
            Ours::Packaged => fs::create_dir(&files).unwrap(),
        }
        if !self.daemon {
            // what runs the program, which is not on this card
            for link in [
                "multi-user.target.wants/beehive.service",
                "multi-user.target.wants/beehive-announce.service",
                "multi-user.target.wants/beehive-announce.path",
                "multi-user.target.wants/beehive-enrol.service",
                "sysinit.target.wants/beehive-card.service",
            ] {
                fs::remove_file(files.join("etc/systemd/system").join(link)).unwrap();
            }
        }
        for (path, text) in &self.files {
            let path = files.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if path.ends_with("identity.toml") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
        if self.ours == Ours::Copied {
            place(&program("beehive-cut"), &files.join("usr/lib/systemd/system-shutdown/beehive-cut"));
        }
        if self.ours == Ours::Copied && self.daemon {
            place(&program("beehive"), &files.join("usr/bin/beehive"));
        }
        for (from, to) in &self.programs {
            place(from, &files.join(to));
        }
        if let Some(path) = self.image_within {
            make_disk(&files.join(path));
        }
        for module in &self.modules {
            let name = Path::new(module).file_name().unwrap();
            fs::copy(kernel_module(module), files.join(name)).unwrap();
        }
        let image = dir.join("card.img");
        // as a package does when it is installed: the image's systemd does not make users at its start
        let mut rootfs = Command::new(kit("rootfs"));
        rootfs.args(["-n", &self.name, "-r", "systemd-sysusers"]).arg(&image).arg(&files).args(&self.packages);
        let built = rootfs.status().unwrap();
        assert!(built.success(), "hardware/virtual-pi/rootfs failed for {}", self.name);
        fs::remove_dir_all(&files).unwrap();
        image
    }
}

fn make_disk(path: &Path) {
    let made = Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(path).arg("16M").status();
    assert!(made.is_ok_and(|status| status.success()), "mke2fs failed");
}

/// A module of the kernel that the kit keeps in its cache.
fn kernel_module(path: &str) -> PathBuf {
    let cache = std::env::var_os("BEEHIVE_VPI")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/beehive-virtual-pi"));
    let kernels = fs::read_dir(cache.join("kernel/lib/modules")).unwrap();
    let folder =
        kernels.filter_map(|entry| Some(entry.ok()?.path())).find(|path| path.join("kernel").is_dir()).unwrap();
    folder.join("kernel").join(path)
}

/// Puts a program there.
pub fn place(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What answers at the PoE HAT's address when the machine is switched on.
#[derive(Clone, Copy, Debug)]
pub enum Hat {
    /// Nothing.
    Absent,
    /// A device whose registers all read zero.
    Zeros,
    /// A HAT that draws this current (the ADC's value) and says 802.3at.
    Drawing(u16),
}

impl Hat {
    fn kernel_arguments(self) -> String {
        match self {
            Self::Absent => "vpi.nohat".to_owned(),
            Self::Zeros => String::new(),
            Self::Drawing(adc) => format!("vpi.regs=f2:{:02x},f3:{:02x},f4:01", adc & 0xff, adc >> 8),
        }
    }
}

/// Where on the first disk the system is.
#[derive(Clone, Copy, Debug)]
enum Root {
    /// The disk is its file system.
    Whole,
    /// The second partition, that many bytes from the beginning.
    Second { from: u64 },
}

impl Root {
    fn kernel_argument(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Second { .. } => "vpi.root=/dev/vda2",
        }
    }

    /// As e2fsck takes it.
    fn place_in(self, disk: &Path) -> String {
        match self {
            Self::Whole => disk.display().to_string(),
            Self::Second { from } => format!("{}?offset={from}", disk.display()),
        }
    }
}

/// How a machine is switched on.
#[derive(Clone, Debug)]
struct Power {
    hat: Hat,
    root: Root,
    ports: Vec<(u16, u16)>,
}

#[derive(Default)]
struct Console {
    lines: Mutex<Vec<String>>,
    more: Condvar,
    /// The machine is off: nothing more comes.
    over: AtomicBool,
}

impl Console {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running virtual Pi. It ends with this value, whatever the test does.
pub struct Machine {
    name: String,
    disks: Vec<PathBuf>,
    root: Root,
    ports: Vec<(u16, u16)>,
    child: Child,
    console: Arc<Console>,
    /// Taken when the machine is off.
    dir: Option<TempDir>,
}

impl Machine {
    /// Switches a machine on. BCM4 low takes its power away at that instant, as the SHIM does.
    pub fn boot(card: &Card, hat: Hat) -> Self {
        // a short path: DIR/control is a socket
        let dir = tempfile::Builder::new().prefix("vpi-").tempdir().unwrap();
        let mut disks = vec![card.write(dir.path())];
        if card.second_disk {
            let disk = dir.path().join("disk.img");
            make_disk(&disk);
            disks.push(disk);
        }
        Self::start(card.name.clone(), dir, disks, Power { hat, root: Root::Whole, ports: Vec::new() })
    }

    /// Switches on a machine with a disk that somebody else made: its second partition holds the system, `root_from` bytes from
    /// the disk's beginning. `make` gets the folder in which the disk is to lie.
    pub fn boot_partitioned(name: &str, root_from: u64, make: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self::boot_reachable(name, root_from, &[], make)
    }

    /// The same, with ports of this machine's loopback that lead to ports of its own: (here, there).
    pub fn boot_reachable(
        name: &str,
        root_from: u64,
        ports: &[(u16, u16)],
        make: impl FnOnce(&Path) -> PathBuf,
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("vpi-").tempdir().unwrap();
        let disk = make(dir.path());
        let ports = ports.to_vec();
        let power = Power { hat: Hat::Absent, root: Root::Second { from: root_from }, ports };
        Self::start(name.to_owned(), dir, vec![disk], power)
    }

    fn start(name: String, dir: TempDir, disks: Vec<PathBuf>, power: Power) -> Self {
        let mut command = Command::new(kit("boot-system"));
        command
            .args(["-c", "-keep", "-t", RUN_SECONDS, "-d"])
            .arg(dir.path())
            .args([
                "-a",
                "systemd.show_status=1",
                "-a",
                &power.hat.kernel_arguments(),
                "-a",
                power.root.kernel_argument(),
            ])
            .args(power.ports.iter().flat_map(|(here, there)| ["-f".to_owned(), format!("{here}:{there}")]))
            .arg(&disks[0])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(disk) = disks.get(1) {
            let drive = format!("file={},if=none,format=raw,id=d1", disk.display());
            command.args(["--", "-drive", &drive, "-device", "virtio-blk-device,drive=d1"]);
        }
        let mut child = command.spawn().unwrap();
        let console = Arc::new(Console::default());
        let output = BufReader::new(child.stdout.take().unwrap());
        let writer = Arc::clone(&console);
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                writer.lines().push(line);
                writer.more.notify_all();
            }
            let lines = writer.lines();
            writer.over.store(true, Ordering::Release);
            drop(lines);
            writer.more.notify_all();
        });
        Self { name, disks, root: power.root, ports: power.ports, child, console, dir: Some(dir) }
    }

    fn folder(&self) -> &Path {
        self.dir.as_ref().map(TempDir::path).unwrap()
    }

    /// Runs a command in the guest's outside world (`hardware/virtual-pi/guest/commands`), waiting until it answers.
    /// `None` if it failed or the machine is off.
    pub fn try_ctl(&self, command: &str) -> Option<String> {
        self.run_ctl(command).ok()
    }

    /// The same for a command that must work.
    pub fn ctl(&self, command: &str) -> String {
        self.run_ctl(command).unwrap_or_else(|why| self.fail(&format!("`{command}` failed in the guest: {why}")))
    }

    fn run_ctl(&self, command: &str) -> Result<String, String> {
        let seconds = ANSWER.as_secs().to_string();
        let output = Command::new(kit("ctl")).arg(self.folder()).args(["-w", &seconds, command]).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            return Ok(said(&output.stdout));
        }
        Err(format!("{}; {} {}", output.status, said(&output.stdout), said(&output.stderr)))
    }

    /// Waits until systemd has started everything.
    pub fn wait_up(&self) {
        self.wait_up_within(BOOT);
    }

    /// The same, with more patience.
    pub fn wait_up_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            // it waits in there: a question every moment takes a good part of an emulated processor. Its status is not 0 when a
            // unit has failed; before systemd listens it says `offline`.
            let state = self.try_ctl("system systemctl is-system-running --wait || true").unwrap_or_default();
            match state.as_str() {
                "running" => return,
                "degraded" => self.fail(&self.ctl("system systemctl --failed --no-pager --plain")),
                _ if Instant::now() > deadline => self.fail(&format!("not up in time: `{state}`")),
                _ => thread::sleep(Duration::from_millis(300)),
            }
        }
    }

    /// How often a program drove BCM4 low.
    pub fn lows(&self) -> u32 {
        self.ctl("lows").parse().unwrap()
    }

    /// Waits for a line of the console that contains `text`; says at which place it stands.
    pub fn wait_console(&self, text: &str, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut lines = self.console.lines();
        loop {
            if let Some(at) = lines.iter().position(|line| line.contains(text)) {
                return at;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.console.over.load(Ordering::Acquire) {
                drop(lines);
                self.fail(&format!("the console never said `{text}`"));
            }
            lines = self.console.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the machine is off; then nothing more comes.
    pub fn wait_off(mut self, limit: Duration) -> Off {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.fail("not off in time");
            }
            thread::sleep(Duration::from_millis(100));
        };
        self.ended(status, deadline)
    }

    /// Waits for what a kernel says that halts and stays on; then somebody pulls the plug.
    pub fn wait_halted(mut self, limit: Duration) -> Off {
        self.wait_console("System halted", limit);
        self.pull_the_plug();
        let status = self.child.wait().unwrap();
        self.ended(status, Instant::now() + limit)
    }

    /// The mains fail at this instant.
    pub fn mains_fail(mut self) -> Off {
        self.pull_the_plug();
        let status = self.child.wait().unwrap();
        self.ended(status, Instant::now() + SHUTDOWN)
    }

    fn ended(mut self, status: ExitStatus, deadline: Instant) -> Off {
        // the reader of the console holds the other reference until it has read the end
        while Arc::strong_count(&self.console) > 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let root = self.root;
        let check = |disk: &PathBuf| {
            Command::new("/sbin/e2fsck").arg("-fn").arg(root.place_in(disk)).output().unwrap().status.code()
        };
        Off {
            name: self.name.clone(),
            status,
            console: self.console.lines().clone(),
            file_systems: self.disks.iter().map(check).collect(),
            disks: self.disks.clone(),
            root: self.root,
            ports: std::mem::take(&mut self.ports),
            dir: self.dir.take().unwrap(),
        }
    }

    fn pull_the_plug(&self) {
        // the child is the time limit around QEMU, which passes this signal on and ends with it
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Ends the test with what was on the console.
    pub fn fail(&self, why: &str) -> ! {
        panic!("{}: {why}\n{}", self.name, tail(&self.console.lines()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.pull_the_plug();
            let _ = self.child.wait();
        }
    }
}

fn tail(lines: &[String]) -> String {
    let from = lines.len().saturating_sub(60);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// A machine that has gone off.
pub struct Off {
    name: String,
    status: ExitStatus,
    console: Vec<String>,
    file_systems: Vec<Option<i32>>,
    disks: Vec<PathBuf>,
    root: Root,
    ports: Vec<(u16, u16)>,
    dir: TempDir,
}

impl Off {
    /// Switches the machine on again, with the same card.
    pub fn boot_again(self, hat: Hat) -> Machine {
        Machine::start(self.name, self.dir, self.disks, Power { hat, root: self.root, ports: self.ports })
    }

    fn count(&self, text: &str) -> usize {
        self.console.iter().filter(|line| line.contains(text)).count()
    }

    fn check(&self, holds: bool, what: &str) {
        assert!(holds, "{}: {what}\n{}", self.name, tail(&self.console));
    }

    /// The console has a line with this text.
    pub fn said(&self, text: &str) -> &Self {
        self.check(self.count(text) > 0, &format!("the console never said `{text}`"));
        self
    }

    /// The power went when the final hook drove BCM4 low, once, and no other program ever did; the file system was
    /// clean at that instant.
    pub fn was_cut(&self) -> &Self {
        self.check(self.status.success(), &format!("QEMU ended with {}", self.status));
        self.check(self.count("shim: BCM4 low at") == 1, "BCM4 did not go low just once");
        let low = self.console.iter().position(|line| line.contains("shim: BCM4 low at")).unwrap_or_default();
        self.check(self.console[low].contains(" by beehive-cut["), "BCM4 was driven low by another program");
        self.check(
            self.console.get(low + 1).is_some_and(|line| line.contains("shim: power cut")),
            "the power did not go at that instant",
        );
        self.was_clean()
    }

    /// BCM4 went low once, by the hook, the power stayed, and the file systems were clean at the end.
    pub fn went_low_in_vain(&self) -> &Self {
        self.check(self.status.success(), &format!("QEMU ended with {}", self.status));
        self.check(self.count("shim: BCM4 low at") == 1, "BCM4 did not go low just once");
        self.check(self.count("shim: power cut") == 0, "the power went");
        self.check(self.count(" by beehive-cut[") == 1, "BCM4 was driven low by another program");
        self.was_clean()
    }

    /// The machine went off by itself, BCM4 never moved, and the file systems were clean.
    pub fn was_not_cut(&self) -> &Self {
        self.stayed_high().was_clean()
    }

    /// The machine halted, BCM4 never moved, and the file systems were clean.
    pub fn halted_clean(&self) -> &Self {
        self.check(self.count("shim: BCM4") == 0, "BCM4 moved");
        self.was_clean()
    }

    /// The machine went off by itself and BCM4 never moved.
    pub fn stayed_high(&self) -> &Self {
        self.check(self.status.success(), &format!("QEMU ended with {}", self.status));
        self.check(self.count("shim: BCM4") == 0, "BCM4 moved");
        self
    }

    /// The image that lies as a file on the card is clean too.
    pub fn holds_clean_image(&self, path: &str) -> &Self {
        let copy = self.dir.path().join("within.img");
        let dump = format!("dump {path} {}", copy.display());
        let dumped = Command::new("/sbin/debugfs").args(["-R", &dump]).arg(&self.disks[0]).output().unwrap();
        self.check(copy.is_file(), &format!("{path} is not on the card: {}", String::from_utf8_lossy(&dumped.stderr)));
        let status = Command::new("/sbin/e2fsck").arg("-fn").arg(&copy).output().unwrap().status.code();
        self.check(status == Some(0), &format!("e2fsck -fn said {status:?} of {path}"));
        self
    }

    /// A file of the card has that many bytes.
    pub fn holds(&self, path: &str, bytes: u64) -> &Self {
        let said =
            Command::new("/sbin/debugfs").args(["-R", &format!("stat {path}")]).arg(&self.disks[0]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        self.check(said.contains(&format!("Size: {bytes}\n")), &format!("{path} has not {bytes} bytes: {said}"));
        self
    }

    fn was_clean(&self) -> &Self {
        let clean = self.file_systems.iter().all(|status| *status == Some(0));
        self.check(clean, &format!("e2fsck -fn said {:?}", self.file_systems));
        self
    }
}
