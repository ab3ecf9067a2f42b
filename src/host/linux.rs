//! A Pi, or any Linux with systemd.
//!
//! - A polite request goes to logind on the system bus: `PowerOff(false)` or `Reboot(false)` of
//!   `org.freedesktop.login1.Manager`, so without a question to anybody (org.freedesktop.login1(5)).
//! - A forced one starts `poweroff.target` or `reboot.target` with `replace-irreversibly`, which is what logind does in the
//!   end, but by `systemctl` over systemd's own socket: neither logind nor the bus needs to live, and no inhibitor is
//!   asked. Services are stopped and file systems unmounted all the same, and the unit that arms the power cut is part of
//!   the transaction. That socket is root's: the daemon's user leaves a file that `beehive-force.path` waits for, and the
//!   unit behind it, which is root's, takes the file away and does the same.
//! - The model is what the firmware put into the device tree, ending in a NUL.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use beehive_board::cut::{FEED_PATH, FeedRecord};
use beehive_board::power::Goal;
use beehive_mqtt::node::Throttling;
use beehive_mqtt::{BootId, MachineMark};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sd_notify::NotifyState;

use super::{Host, HostError, Notice, Strength};
use crate::clock::Clock;
use crate::doctor::Machine;
use crate::doctor::lines::{OtherUser, other_users};
use crate::hal::throttled::Throttled;
use crate::kube::sha256;

/// A fixed path: what is run must not depend on an environment.
const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// How long the file of a forced request may lie until it counts as not taken: systemd starts one small unit for it, on a
/// machine that may be busy enough for its logind not to answer.
const FORCE_TIME: Duration = Duration::from_secs(20);

/// How often it is looked whether the file was taken.
const FORCE_LOOK_EVERY: Duration = Duration::from_millis(100);

/// The most of `systemctl`'s complaint that goes into an error.
const MAX_COMPLAINT_CHARS: usize = 200;

/// This machine.
#[derive(Debug)]
pub struct LinuxHost {
    boot: BootId,
    machine: Option<MachineMark>,
    model: String,
    feed_path: PathBuf,
    temperature_path: Option<PathBuf>,
    throttled: Throttled,
    files: Machine,
}

impl LinuxHost {
    /// This machine, with its folder for the final hook.
    ///
    /// # Errors
    /// If the kernel does not tell this boot's id.
    pub fn new(run_dir: &Path) -> Result<Self, HostError> {
        Self::below(Path::new("/"), run_dir)
    }

    /// The machine whose `/proc` and `/sys` lie below `root`.
    fn below(root: &Path, run_dir: &Path) -> Result<Self, HostError> {
        let boot_path = root.join("proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(&boot_path)
            .map_err(|error| error.to_string())
            .and_then(|text| text.trim().parse::<BootId>().map_err(|error| format!("{:?} {error}", text.trim())))
            .map_err(|reason| HostError {
                code: "file",
                reason: format!(
                    "this boot's id cannot be read from {}: {reason}; is /proc mounted?",
                    boot_path.display()
                ),
            })?;
        let name = Path::new(FEED_PATH).file_name().unwrap_or_default();
        Ok(Self {
            boot,
            machine: machine(root),
            model: model(root),
            feed_path: run_dir.join(name),
            temperature_path: temperature_path(root),
            throttled: Throttled::below(root),
            files: Machine::below(root),
        })
    }
}

/// What of the machine-id may leave the machine (machine-id(5): never the id itself). A card that was copied has the same.
fn machine(root: &Path) -> Option<MachineMark> {
    let text = fs::read_to_string(root.join("etc/machine-id")).ok()?;
    let id = text.trim();
    let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    // an image that was not started yet has none
    is_one.then(|| sha256(format!("beehive machine {id}").as_bytes())?.get(..16)?.parse().ok()).flatten()
}

pub(crate) fn model(root: &Path) -> String {
    let text = fs::read(root.join("proc/device-tree/model")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match text.trim_matches(['\0', '\n', ' ']) {
        "" => "unknown".to_owned(),
        model => model.to_owned(),
    }
}

/// The processor's thermal zone by its type (`cpu-thermal`; `bcm2835_thermal` on older kernels), else the first one.
fn temperature_path(root: &Path) -> Option<PathBuf> {
    let mut zones: Vec<PathBuf> = fs::read_dir(root.join("sys/class/thermal"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("thermal_zone")))
        .collect();
    zones.sort();
    let of_processor = |zone: &&PathBuf| {
        let kind = fs::read_to_string(zone.join("type")).unwrap_or_default();
        kind.contains("cpu") || kind.contains("bcm2835")
    };
    zones.iter().find(of_processor).or(zones.first()).map(|zone| zone.join("temp"))
}

/// What `beehive-force.path` waits for, in the folder of `/run`.
fn force_file(goal: Goal) -> &'static str {
    match goal {
        Goal::Reboot => "force-reboot",
        Goal::PowerOff => "force-poweroff",
    }
}

/// Leaves the file of a forced request, and waits until it was taken.
async fn ask_force_unit(goal: Goal, path: PathBuf) -> Result<(), HostError> {
    let failed = |reason: String| HostError {
        code: "force",
        reason: format!(
            "{} could not be forced: {reason}; is beehive-force.path active (systemctl status beehive-force.path)?",
            target(goal)
        ),
    };
    fs::write(&path, "").map_err(|error| failed(format!("cannot write {}: {error}", path.display())))?;
    let taken = async {
        while path.symlink_metadata().is_ok() {
            tokio::time::sleep(FORCE_LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(FORCE_TIME, taken).await {
        Ok(()) => Ok(()),
        Err(_) => {
            // taken later, it would stop a Pi that somebody has decided otherwise about
            let _ = fs::remove_file(&path);
            Err(failed(format!("nobody took {} within {} s", path.display(), FORCE_TIME.as_secs())))
        }
    }
}

fn target(goal: Goal) -> &'static str {
    match goal {
        Goal::Reboot => "reboot.target",
        Goal::PowerOff => "poweroff.target",
    }
}

async fn ask_logind(goal: Goal) -> Result<(), HostError> {
    let method = match goal {
        Goal::Reboot => "Reboot",
        Goal::PowerOff => "PowerOff",
    };
    let call = async {
        let bus = zbus::Connection::system().await?;
        bus.call_method(
            Some("org.freedesktop.login1"),
            "/org/freedesktop/login1",
            Some("org.freedesktop.login1.Manager"),
            method,
            // not interactive
            &(false),
        )
        .await?;
        Ok::<(), zbus::Error>(())
    };
    call.await.map_err(|error| HostError {
        code: "logind",
        reason: format!("logind did not take {method}: {error}; is it running, and does an inhibitor block it?"),
    })
}

async fn ask_systemd(goal: Goal) -> Result<(), HostError> {
    let failed = |reason: String| HostError {
        code: "systemctl",
        reason: format!("{SYSTEMCTL} could not start {}: {reason}", target(goal)),
    };
    let output = tokio::process::Command::new(SYSTEMCTL)
        .args(["--no-block", "--no-ask-password", "--no-wall", "--job-mode=replace-irreversibly", "start"])
        .arg(target(goal))
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: String = complaint.trim().chars().take(MAX_COMPLAINT_CHARS).collect();
    Err(failed(format!("{}, {complaint}", output.status)))
}

impl Host for LinuxHost {
    fn boot_id(&self) -> BootId {
        self.boot.clone()
    }

    fn machine(&self) -> Option<MachineMark> {
        self.machine.clone()
    }

    fn uptime_ms(&self) -> u64 {
        Clock.now().as_ms()
    }

    fn hand_over(&self, goal: Goal, strength: Strength) -> BoxFuture<'static, Result<(), HostError>> {
        match strength {
            Strength::Polite => ask_logind(goal).boxed(),
            Strength::Forced if rustix::process::geteuid().is_root() => ask_systemd(goal).boxed(),
            Strength::Forced => ask_force_unit(goal, self.feed_path.with_file_name(force_file(goal))).boxed(),
        }
    }

    fn model(&self) -> String {
        self.model.clone()
    }

    fn write_feed(&self, record: &FeedRecord) -> Result<(), HostError> {
        let new = self.feed_path.with_extension("new");
        let write = || -> std::io::Result<()> {
            if let Some(folder) = self.feed_path.parent() {
                fs::create_dir_all(folder)?;
            }
            // no fsync: the folder is in memory, and gone after a power cut anyway
            let mut file = fs::File::create(&new)?;
            file.write_all(record.render().as_bytes())?;
            fs::rename(&new, &self.feed_path)
        };
        write().map_err(|error| HostError {
            code: "file",
            reason: format!(
                "the feed cannot be written to {}: {error}; without it the power is not cut at a power-off",
                self.feed_path.display()
            ),
        })
    }

    fn other_user_of_the_shim(&self) -> Option<String> {
        other_users(&self.files).first().map(OtherUser::to_string)
    }

    fn processor_millicelsius(&self) -> Option<i32> {
        fs::read_to_string(self.temperature_path.as_ref()?).ok()?.trim().parse().ok()
    }

    fn throttling(&self) -> Option<Throttling> {
        self.throttled.read()
    }

    fn watchdog_ms(&self) -> Option<u64> {
        u64::try_from(sd_notify::watchdog_enabled()?.as_millis()).ok()
    }

    fn notify(&self, notice: Notice<'_>) {
        let state = match notice {
            Notice::Ready => NotifyState::Ready,
            Notice::Watchdog => NotifyState::Watchdog,
            Notice::Stopping => NotifyState::Stopping,
            Notice::Status(text) => NotifyState::Status(text),
        };
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::debug!(%error, "systemd was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_board::cut::Feed;
    use tempfile::TempDir;

    const BOOT: &str = "0b1c9c1e-7f0a-4f54-9c1e-111122223333";

    fn machine(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, text) in [("proc/sys/kernel/random/boot_id", &*format!("{BOOT}\n"))].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn host(root: &TempDir) -> LinuxHost {
        LinuxHost::below(root.path(), &root.path().join("run/beehive")).unwrap()
    }

    /// Two cards with the same id show the same, and nobody finds the id from what is shown.
    #[test]
    fn a_machine_shows_a_mark_of_its_id_and_never_the_id() {
        let mark = |id: &str| host(&machine(&[("etc/machine-id", id)])).machine().map(|mark| mark.as_str().to_owned());
        let id = "8a5c7f1e2d3b4c5d9e0f1a2b3c4d5e6f";
        let shown = mark(&format!("{id}\n")).unwrap();
        assert_eq!((shown.len(), Some(&shown)), (16, mark(id).as_ref()));
        assert!(!id.contains(&shown));
        assert_ne!(mark("8a5c7f1e2d3b4c5d9e0f1a2b3c4d5e60"), Some(shown));
        for none in ["", "uninitialized\n", "8a5c"] {
            assert_eq!(mark(none), None, "{none:?}");
        }
        assert_eq!(host(&machine(&[])).machine(), None);
    }

    #[test]
    fn a_pi_is_read() {
        let root = machine(&[
            ("proc/device-tree/model", "Raspberry Pi 3 Model B Plus Rev 1.3\0"),
            ("sys/class/thermal/cooling_device0/type", "cpu-something\n"),
            ("sys/class/thermal/thermal_zone0/type", "gpu\n"),
            ("sys/class/thermal/thermal_zone0/temp", "1\n"),
            ("sys/class/thermal/thermal_zone1/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone1/temp", "48312\n"),
        ]);
        let host = host(&root);
        assert_eq!(host.boot_id().as_str(), BOOT);
        assert_eq!(host.model(), "Raspberry Pi 3 Model B Plus Rev 1.3");
        assert_eq!(host.processor_millicelsius(), Some(48_312));
        fs::write(root.path().join("sys/class/thermal/thermal_zone1/temp"), "hot").unwrap();
        assert_eq!(host.processor_millicelsius(), None);
    }

    #[test]
    fn a_machine_that_tells_nothing_is_a_machine_still_but_not_without_a_boot_id() {
        let root = machine(&[]);
        let host = host(&root);
        assert_eq!((host.model().as_str(), host.processor_millicelsius()), ("unknown", None));
        fs::write(root.path().join("proc/sys/kernel/random/boot_id"), "\n").unwrap();
        let error = LinuxHost::below(root.path(), root.path()).unwrap_err();
        assert_eq!(error.code, "file");
        assert!(error.reason.contains("boot_id") && error.reason.contains("empty"), "{error}");
    }

    #[tokio::test]
    async fn a_forced_request_of_a_user_is_taken_by_the_unit_or_taken_back() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(force_file(Goal::PowerOff));
        let asked = tokio::spawn(ask_force_unit(Goal::PowerOff, path.clone()));
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        fs::remove_file(&path).unwrap();
        asked.await.unwrap().unwrap();

        tokio::time::pause();
        let error = ask_force_unit(Goal::PowerOff, path.clone()).await.unwrap_err();
        assert!(error.code == "force" && error.reason.contains("beehive-force.path"), "{error}");
        assert!(!path.exists(), "it would be taken later");
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(ask_force_unit(Goal::PowerOff, path).await.unwrap_err().code, "force");

        // the shipped unit waits for these names, in the folder that the daemon has by default
        let unit = include_str!("../../hardware/rootfs/usr/lib/systemd/system/beehive-force.path");
        for goal in [Goal::PowerOff, Goal::Reboot] {
            assert!(unit.contains(&format!("PathExists=/run/beehive/{}\n", force_file(goal))), "{unit}");
        }
    }

    #[test]
    fn another_user_of_the_shims_lines_is_seen() {
        let root = machine(&[]);
        let host = host(&root);
        assert_eq!(host.other_user_of_the_shim(), None);
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/cleanshutd"), "").unwrap();
        let user = host.other_user_of_the_shim().unwrap();
        assert_eq!(user, "BCM17 has another user: clean-shutdown (/usr/bin/cleanshutd)");
    }

    #[test]
    fn the_feed_is_replaced_whole_and_reads_back() {
        let root = machine(&[]);
        let host = host(&root);
        for feed in [Feed::Unknown, Feed::Shim] {
            let record = FeedRecord { feed, evidence: "no HAT answers".try_into().unwrap(), written_boottime_ms: 7 };
            host.write_feed(&record).unwrap();
            let text = fs::read_to_string(root.path().join("run/beehive/feed")).unwrap();
            assert_eq!(FeedRecord::parse(&text), Ok(record));
        }
        assert_eq!(fs::read_dir(root.path().join("run/beehive")).unwrap().count(), 1, "no temporary file is left");
        fs::remove_dir_all(root.path().join("run/beehive")).unwrap();
        fs::write(root.path().join("run/beehive"), "").unwrap();
        let record = FeedRecord { feed: Feed::Shim, evidence: Default::default(), written_boottime_ms: 7 };
        let error = host.write_feed(&record).unwrap_err();
        assert!(error.reason.contains("run/beehive/feed"), "{error}");
    }
}
