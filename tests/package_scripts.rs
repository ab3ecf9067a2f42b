//! The maintainer scripts of the package `beehive`, run on a folder (`DPKG_ROOT`) with programs that only write down how they were
//! called. A Pi that is installed, upgraded, removed and purged is `tests/virtual_pi/packages.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the scripts call that would change this machine.
const PROGRAMS: [&str; 3] = ["deb-systemd-invoke", "deb-systemd-helper", "systemctl"];

const ANNOUNCED: &str = "etc/avahi/services/beehive.service";

fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware/package").join(path)
}

/// A system that is a folder, and what was called in it.
struct System {
    dir: tempfile::TempDir,
}

impl System {
    /// One that runs, with the package's list of units, and with what the daemon and its helpers leave behind.
    fn new() -> Self {
        let system = Self { dir: tempfile::tempdir().unwrap() };
        for program in PROGRAMS {
            let path = system.dir.path().join("bin").join(program);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\necho \"{program} $*\" >>{}\n", system.called_file().display()))
                .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir_all(system.path("run/systemd/system")).unwrap();
        for file in
            [ANNOUNCED, "etc/avahi/services/other.service", "etc/beehive/beehive.toml", "var/lib/beehive/node.json"]
        {
            system.put(file, "");
        }
        system.put("usr/share/beehive/units", &fs::read_to_string(package("units")).unwrap());
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn called_file(&self) -> PathBuf {
        self.dir.path().join("called")
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        let programs = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap());
        // never without a root: purge removes what it finds below it
        let path = package("debian").join(script);
        let text = fs::read_to_string(&path).unwrap();
        let careless = text.lines().find(|line| line.contains("put_away /") || line.contains("rm -f /"));
        assert!(text.contains("root=${DPKG_ROOT:-}") && careless.is_none(), "{script} is not run here: {careless:?}");
        Command::new("sh")
            .arg(path)
            .args(arguments)
            .env("DPKG_ROOT", self.dir.path().join("root"))
            .env("PATH", programs)
            .output()
            .unwrap()
    }

    /// As [`Self::run`]; it has to succeed, and says what was called.
    fn must(&self, script: &str, arguments: &[&str]) -> Vec<String> {
        let _ = fs::remove_file(self.called_file());
        let output = self.run(script, arguments);
        assert!(output.status.success(), "{script} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(self.called_file()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }
}

#[test]
fn a_removed_package_leaves_no_unit_active_and_the_pi_unannounced() {
    let system = System::new();
    let called = system.must("prerm", &["remove"]);
    let stopped = |unit: &str| called.iter().any(|call| call == &format!("deb-systemd-invoke stop {unit}"));
    // each unit that waits for something, or that a start leaves active; the drain unit's turn is postrm's
    let units =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware/rootfs/usr/lib/systemd/system")).unwrap();
    for unit in units.map(|unit| unit.unwrap().file_name().into_string().unwrap()) {
        // it stops the system; while it runs there is nothing to be removed
        let apart = ["beehive-drain.service", "beehive-force.service"].contains(&unit.as_str());
        assert_eq!(stopped(&unit), !apart, "{unit}: {called:#?}");
    }
    // what would write it anew is stopped, so it goes for good
    assert!(system.has(ANNOUNCED));
    let called = system.must("postrm", &["remove"]);
    assert!(!system.has(ANNOUNCED), "the Pi is still announced");
    assert!(system.has("etc/avahi/services/other.service"), "somebody else's service is gone");
    assert!(called.contains(&"systemctl stop beehive-drain.service".to_owned()), "{called:#?}");
    // what it knows is left
    assert!(system.has("etc/beehive/beehive.toml") && system.has("var/lib/beehive/node.json"));

    system.must("postrm", &["purge"]);
    assert!(!system.has("etc/beehive") && !system.has("var/lib/beehive"));
    assert!(!system.has(ANNOUNCED));
}

#[test]
fn an_upgrade_stops_nothing_and_leaves_the_pi_announced() {
    let system = System::new();
    for (script, arguments) in
        [("prerm", ["upgrade", "0.2.0-1"]), ("preinst", ["upgrade", "0.1.0-1"]), ("postrm", ["upgrade", "0.2.0-1"])]
    {
        if script == "preinst" {
            fs::create_dir_all(system.path("usr/lib")).unwrap();
            symlink("usr/lib", system.path("lib")).unwrap();
        }
        assert_eq!(system.must(script, &arguments), [""; 0], "{script}");
    }
    assert!(system.has(ANNOUNCED));
}

#[test]
fn without_a_system_that_runs_nothing_is_stopped() {
    let system = System::new();
    fs::remove_dir_all(system.path("run")).unwrap();
    let called = [system.must("prerm", &["remove"]), system.must("postrm", &["remove"])].concat();
    assert!(called.iter().all(|call| call.starts_with("deb-systemd-helper ")), "{called:#?}");
    assert!(!system.has(ANNOUNCED));
}

#[test]
fn a_system_that_would_not_find_the_final_hook_gets_no_package() {
    let system = System::new();
    fs::create_dir_all(system.path("usr/lib")).unwrap();
    fs::create_dir_all(system.path("lib/systemd/system-shutdown")).unwrap();
    let refused = system.run("preinst", &["install"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("would not find the program that cuts the power") && said.contains("usrmerge"), "{said}");
    // as Raspberry Pi OS has been since it was last installed anew
    fs::remove_dir_all(system.path("lib")).unwrap();
    symlink("usr/lib", system.path("lib")).unwrap();
    system.must("preinst", &["install"]);
    system.must("preinst", &["upgrade", "0.1.0-1"]);
}

/// The first boot of a prepared card runs plain `dpkg -i`, with no network: what is named here has to be on Raspberry Pi OS Lite.
#[test]
fn the_package_depends_on_nothing_that_a_stock_image_lacks() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let depends = manifest.lines().find_map(|line| line.strip_prefix("depends = ")).unwrap();
    assert_eq!(depends, "\"libc6 (>= 2.28), systemd (>= 247), dbus, polkitd | policykit-1\"");
}
