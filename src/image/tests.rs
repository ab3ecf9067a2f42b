//! Whole images, made here with the layout and the first-boot files of each kind. No vendor's image is among them: what
//! they have in their boot partitions is written down from their makers' sources (docs/image.md).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use beehive_mqtt::NodeName;
use clap::Parser as _;
use fatfs::{FatType, FormatVolumeOptions};
use sha2::{Digest as _, Sha256};

use super::boot::Boot;
use super::card::{Card, Credentials, Cut, Shim, Sources};
use super::disk::{Place, Window, boot_partition};
use super::kind::Kind;
use super::prepare::{Change, Prepared, Target, prepare, prepare_and, unfinished};
use super::*;
use crate::crew::files::faults::Side;
use crate::crew::keys::{KeyFolder, NewCrew};

const MIB: u64 = 1024 * 1024;
/// Where the first partition of Raspberry Pi OS begins.
const BOOT_FROM: u64 = 4 * MIB;

const ISSUE: &str =
    "Raspberry Pi reference 2024-11-19\nGenerated using pi-gen, https://github.com/RPi-Distro/pi-gen, 0, stage2\n";
const STOCK_CONFIG: &str = "# For more options and information see\ndtparam=audio=on\n\n[pi4]\narm_boost=1\n\n[all]\n";

/// The files of the boot partition of each kind, as far as they matter here.
fn stock(kind: Kind) -> Vec<(&'static str, String)> {
    let rpi = |init: &str| {
        format!(
            "console=serial0,115200 console=tty1 root=PARTUUID=6c586e13-02 rootfstype=ext4 fsck.repair=yes rootwait{init}\n"
        )
    };
    let mut files = vec![("bootcode.bin", "x".repeat(50_000)), ("kernel8.img", "k".repeat(300_000))];
    files.extend(match kind {
        Kind::RaspberryPiOsBullseye => vec![
            ("config.txt", STOCK_CONFIG.to_owned()),
            ("cmdline.txt", rpi(" quiet init=/usr/lib/raspi-config/init_resize.sh")),
            ("issue.txt", ISSUE.to_owned()),
        ],
        Kind::RaspberryPiOsBookworm => vec![
            ("config.txt", format!("auto_initramfs=1\n{STOCK_CONFIG}")),
            ("cmdline.txt", rpi(" quiet init=/usr/lib/raspberrypi-sys-mods/firstboot")),
            ("issue.txt", ISSUE.to_owned()),
        ],
        Kind::RaspberryPiOsTrixie => vec![
            ("config.txt", format!("auto_initramfs=1\n{STOCK_CONFIG}")),
            ("cmdline.txt", rpi(" resize")),
            ("issue.txt", ISSUE.to_owned()),
            ("user-data", "#cloud-config\n#hostname: raspberrypi\n".to_owned()),
            ("meta-data", "dsmode: local\ninstance_id: rpios-image\n".to_owned()),
            ("network-config", "#network:\n".to_owned()),
        ],
        Kind::DebianRaspi => vec![
            ("config.txt", "# Do not modify this file!\narm_64bit=1\nkernel=vmlinuz-6.1.0-27-arm64\n".to_owned()),
            ("cmdline.txt", "console=tty0 console=ttyS1,115200 root=LABEL=RASPIROOT rw fsck.repair=yes net.ifnames=0 rootwait\n".to_owned()),
            ("sysconf.txt", "# This file will be automatically evaluated and installed at next boot\n\n#root_pw=\n#hostname=\n".to_owned()),
        ],
        Kind::HypriotOs => vec![
            ("config.txt", "hdmi_force_hotplug=1\nenable_uart=0\n".to_owned()),
            ("cmdline.txt", "dwc_otg.lpm_enable=0 console=tty1 root=PARTUUID=6c586e13-02 rootfstype=ext4 cgroup_enable=cpuset cgroup_enable=memory swapaccount=1 rootwait quiet init=/usr/lib/raspi-config/init_resize.sh\n".to_owned()),
            ("os-release", "NAME=\"Raspbian GNU/Linux\"\nHYPRIOT_OS=\"HypriotOS/armhf\"\nHYPRIOT_IMAGE_VERSION=\"v1.12.3\"\n".to_owned()),
            ("user-data", "#cloud-config\nhostname: black-pearl\nusers:\n  - name: pirate\n    plain_text_passwd: hypriot\n".to_owned()),
            ("meta-data", "instance-id: iid-local01\n".to_owned()),
        ],
        Kind::Own => vec![
            ("config.txt", "# Do not modify this file!\nenable_uart=1\nkernel=vmlinuz-6.1.0-50-armmp\n".to_owned()),
            ("cmdline.txt", "console=tty0 root=LABEL=beeroot rw fsck.repair=yes net.ifnames=0 rootwait cgroup_enable=memory cgroup_memory=1\n".to_owned()),
            ("image-of-beehive.txt", "An image of beehive\n".to_owned()),
        ],
    });
    files
}

/// A disk with a boot partition of `boot_bytes`, and behind it one for the system with something in it.
fn disk(path: &Path, boot_bytes: u64, root_bytes: u64, files: &[(&str, String)]) {
    // as many clusters as FAT32 needs, and of the usual size where there is room
    let cluster = if boot_bytes > 100 * MIB { 2048 } else { 512 };
    let mut disk = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    disk.set_len(BOOT_FROM + boot_bytes + root_bytes).unwrap();
    let mut table = [0_u8; 512];
    let mut entry = |at: usize, kind: u8, from: u64, bytes: u64| {
        table[at + 4] = kind;
        table[at + 8..at + 12].copy_from_slice(&u32::try_from(from / 512).unwrap().to_le_bytes());
        table[at + 12..at + 16].copy_from_slice(&u32::try_from(bytes / 512).unwrap().to_le_bytes());
    };
    entry(446, 0x0c, BOOT_FROM, boot_bytes);
    entry(462, 0x83, BOOT_FROM + boot_bytes, root_bytes);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all(&table).unwrap();
    disk.seek(SeekFrom::Start(BOOT_FROM + boot_bytes + 1024)).unwrap();
    disk.write_all(b"the system's own file system").unwrap();
    let mut window = Window::new(&mut disk, Place { from: BOOT_FROM, bytes: boot_bytes });
    let options =
        FormatVolumeOptions::new().volume_label(*b"bootfs     ").fat_type(FatType::Fat32).bytes_per_cluster(cluster);
    fatfs::format_volume(&mut window, options).unwrap();
    let boot = Boot::open(&mut window).unwrap();
    for (name, text) in files {
        boot.write(name, text.as_bytes()).unwrap();
    }
    boot.close().unwrap();
    let mut to = OpenOptions::new().write(true).open(path).unwrap();
    window.commit(&mut to).unwrap();
}

/// Every file of the boot partition, by its path.
fn files(image: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut disk = File::open(image).unwrap();
    let place = boot_partition(&mut disk).unwrap();
    let mut window = ReadOnly(Window::new(&mut disk, place));
    let boot = Boot::open(&mut window).unwrap();
    let mut all = BTreeMap::new();
    for name in boot.names().unwrap() {
        let bytes = boot.read(&name).unwrap().unwrap();
        all.insert(name, bytes);
    }
    all
}

struct ReadOnly<'a>(Window<&'a mut File>);

impl std::io::Read for ReadOnly<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl std::io::Write for ReadOnly<'_> {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("a reader writes")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for ReadOnly<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn image(&self, kind: Kind) -> PathBuf {
        let path = self.path(&format!("{}.img", kind.code()));
        disk(&path, 40 * MIB, MIB, &stock(kind));
        path
    }

    /// Keys, configuration, package and SSH key of `pi-2`.
    fn card(&self) -> Card {
        let crew = self.path("crew");
        if !crew.exists() {
            let new = NewCrew {
                crew: "c1".parse().unwrap(),
                nodes: ["pi-1", "pi-2"].map(|name| name.parse().unwrap()).to_vec(),
                users: Vec::new(),
            };
            KeyFolder::new(&crew).init(&new).unwrap();
        }
        let config = self.put("beehive.toml", "crew = \"c1\"\nnode = \"pi-2\"\nrole = \"node\"\nfeed = \"shim\"\n");
        let key = self.put("id.pub", &format!("ssh-ed25519 {} ann's \"laptop\"\n", "A".repeat(68)));
        let package = self.put("beehive.deb", "!<arch>\ndebian-binary   and the rest");
        Card::read(&Sources {
            config: Some(&config),
            keys: Some(&crew.join("nodes/pi-2")),
            package: Some(&package),
            ssh_keys: &[key],
            ..plain(&"pi-2".parse().unwrap(), &"ann".parse().unwrap())
        })
        .unwrap()
    }
}

fn plain<'a>(node: &'a NodeName, login: &'a card::Login) -> Sources<'a> {
    let (ssh_keys, overlays) = (&[], &[]);
    let (config, keys, package) = (None, None, None);
    Sources {
        node,
        login,
        ssh_keys,
        config,
        keys,
        package,
        overlays,
        shim: Shim::Fitted,
        cut: Cut::Hook,
        of_crew: None,
    }
}

fn text(files: &BTreeMap<String, Vec<u8>>, name: &str) -> String {
    String::from_utf8(files.get(name).unwrap_or_else(|| panic!("{name} is missing")).clone()).unwrap()
}

fn names_of(prepared: &Prepared, change: Change) -> Vec<&str> {
    prepared.changed.iter().filter(|file| file.change == change).map(|file| file.path.as_str()).collect()
}

#[test]
fn every_known_image_gets_what_its_first_boot_acts_on_and_a_second_run_changes_nothing() {
    let bench = Bench::new();
    let full = bench.card();
    for kind in Kind::ALL {
        let card = Card { package: full.package.clone().filter(|_| kind != Kind::HypriotOs), ..full.clone() };
        let image = bench.image(kind);
        let before = files(&image);
        let digest = |path: &Path| Sha256::digest(fs::read(path).unwrap());
        let stock_digest = digest(&image);
        let out = bench.path(&format!("{}-pi-2.img", kind.code()));
        let dry = prepare(&image, &card, &Target::DryRun).unwrap();
        let done = prepare(&image, &card, &Target::Copy(out.clone())).unwrap();
        assert_eq!(done.kind, kind);
        assert_eq!(
            (&dry.changed, dry.written_bytes),
            (&done.changed, done.written_bytes),
            "a dry run says what a run does"
        );
        assert_eq!(digest(&image), stock_digest, "the stock image is as it was");
        assert!(!unfinished(&out).exists());

        let after = files(&out);
        for (name, bytes) in &before {
            let replaced = ["config.txt", "cmdline.txt", "sysconf.txt", "user-data", "meta-data", "network-config"];
            if !replaced.contains(&name.as_str()) {
                assert_eq!(&after[name], bytes, "{kind}: {name}");
            }
        }
        // the one line has what it had, and more behind it
        let (old, line) = (text(&before, "cmdline.txt"), text(&after, "cmdline.txt"));
        assert!(line.starts_with(old.trim_end()) && line.lines().count() == 1, "{line}");
        for word in crate::doctor::kernel::MEMORY_WORDS {
            assert_eq!(line.split_whitespace().filter(|there| *there == word).count(), 1, "{kind}: {line}");
        }
        let config = text(&after, "config.txt");
        assert!(config.starts_with(&text(&before, "config.txt")));
        assert!(config.ends_with("[all]\ngpio=4=op,dh\ngpio=17=ip,pu\n# beehive: end\n"), "{config}");
        assert_eq!(text(&after, "beehive-node.toml"), card.config.clone().unwrap());
        assert_eq!(after.get("beehive-package.deb"), card.package.as_ref());
        assert!(after["beehive-key-identity.toml"] == fs::read(bench.path("crew/nodes/pi-2/identity.toml")).unwrap());
        let boot = kind.mounted_at();
        match kind {
            Kind::RaspberryPiOsBullseye | Kind::RaspberryPiOsBookworm | Kind::DebianRaspi => {
                assert!(line.contains(&format!(" systemd.run={boot}/firstrun.sh ")), "{line}");
                assert!(line.ends_with(" systemd.unit=kernel-command-line.target\n"), "{line}");
                assert!(text(&after, "firstrun.sh").contains(&format!("BOOT='{boot}'\nNODE='pi-2'\nLOGIN='ann'\n")));
                assert!(!after.contains_key("user-data"));
            }
            Kind::RaspberryPiOsTrixie | Kind::HypriotOs | Kind::Own => {
                let data = text(&after, "user-data");
                assert!(data.starts_with("#cloud-config\n") && data.contains("hostname: \"pi-2\"\n"), "{data}");
                assert!(data.contains("ann's \\\"laptop\\\"\"\n") && !data.contains("passwd: hypriot"), "{data}");
                assert!(data.ends_with(&format!("runcmd:\n  - [sh, {boot}/beehive-first-boot.sh]\n")), "{data}");
                asks_at_each_boot(&bench, &data, boot);
                assert!(text(&after, "meta-data").contains("\ninstance-id: pi-2-"));
                assert_eq!(after.get("user-data.before-beehive"), before.get("user-data"));
                assert!(!line.contains("systemd.run="));
            }
        }
        assert_eq!(after.contains_key("ssh"), kind.code().starts_with("raspberry"), "{kind}");
        if kind == Kind::DebianRaspi {
            let sysconf = text(&after, "sysconf.txt");
            assert!(sysconf.ends_with("#hostname=\nhostname=pi-2\n"), "{sysconf}");
            assert!(text(&after, "firstrun.sh").contains("REGENERATED='yes'"));
            assert_eq!(text(&after, "beehive-config-lines.txt"), "gpio=4=op,dh\ngpio=17=ip,pu\n");
        }
        if kind == Kind::Own {
            assert!(text(&after, "beehive-first-boot.sh").contains("REGENERATED='yes'"));
            assert_eq!(text(&after, "beehive-config-lines.txt"), "gpio=4=op,dh\ngpio=17=ip,pu\n");
        }
        let rest = |path: &Path| {
            let bytes = fs::read(path).unwrap();
            let (from, to) = (BOOT_FROM as usize, (BOOT_FROM + 40 * MIB) as usize);
            (bytes[..from].to_vec(), bytes[to..].to_vec())
        };
        assert!(rest(&image) == rest(&out), "nothing outside the boot partition is touched");

        let prepared = digest(&out);
        let again = prepare(&out, &card, &Target::InPlace).unwrap();
        assert_eq!((again.kind, again.changed, again.written_bytes), (kind, Vec::new(), 0));
        assert_eq!(digest(&out), prepared, "{kind}: byte for byte the same");
        // and from the stock image it is the same image once more
        let twice = bench.path("twice.img");
        prepare(&image, &card, &Target::Copy(twice.clone())).unwrap();
        assert_eq!(digest(&twice), prepared);
        fs::remove_file(twice).unwrap();
        sound(&out);
    }
}

/// What cloud-init does early at each boot leaves a program for the end of the same boot, whatever an earlier boot left there.
fn asks_at_each_boot(bench: &Bench, user_data: &str, boot: &str) {
    let lines: Vec<&str> = user_data.lines().collect();
    let at = lines.iter().position(|line| *line == "bootcmd:").unwrap();
    let word = lines[at + 1].strip_prefix("  - [sh, -c, ").and_then(|rest| rest.strip_suffix(']')).unwrap();
    let command: String = serde_json::from_str(word).unwrap();
    let cloud = bench.path("cloud");
    let (here, script) = (cloud.to_str().unwrap(), bench.path("asked.sh"));
    let command = command
        .replace("/var/lib/cloud", here)
        .replace(&format!("{boot}/beehive-first-boot.sh"), script.to_str().unwrap());
    let program = cloud.join("scripts/per-boot/beehive-first-boot");
    let run = |program: &mut Command| program.status().unwrap().success();
    for _ in 0..2 {
        assert!(run(Command::new("sh").args(["-c", &command])));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&program).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o755);
        assert!(run(&mut Command::new(&program)), "a boot partition without the script");
        fs::write(&script, format!("echo asked >{here}/asked\n")).unwrap();
        assert!(run(&mut Command::new(&program)));
        assert_eq!(fs::read_to_string(cloud.join("asked")).unwrap(), "asked\n");
        fs::remove_file(&script).unwrap();
        // cut off while it was written
        fs::write(&program, "").unwrap();
    }
    fs::remove_dir_all(cloud).unwrap();
}

/// What a checker of other people's making says of the file system.
fn sound(image: &Path) {
    let mut disk = File::open(image).unwrap();
    let place = boot_partition(&mut disk).unwrap();
    let mut bytes = vec![0; usize::try_from(place.bytes).unwrap()];
    disk.seek(SeekFrom::Start(place.from)).unwrap();
    disk.read_exact(&mut bytes).unwrap();
    let part = image.with_extension("fat");
    fs::write(&part, bytes).unwrap();
    let output = Command::new("/usr/sbin/fsck.vfat").arg("-n").arg(&part).output();
    let output = output.expect("fsck.vfat looks at each file system that is made here: apt-get install dosfstools");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    fs::remove_file(part).unwrap();
}

#[test]
fn another_card_in_the_same_image_leaves_nothing_of_the_first() {
    let bench = Bench::new();
    let card = bench.card();
    let image = bench.image(Kind::RaspberryPiOsTrixie);
    prepare(&image, &card, &Target::InPlace).unwrap();
    let other = Card {
        node: "pi-1".parse().unwrap(),
        credentials: Credentials::None,
        package: None,
        config_lines: Vec::new(),
        ..card
    };
    let done = prepare(&image, &other, &Target::InPlace).unwrap();
    let removed = names_of(&done, Change::Removed);
    assert!(removed.contains(&"beehive-package.deb") && removed.contains(&"beehive-key-identity.toml"), "{removed:?}");
    assert!(names_of(&done, Change::Changed).contains(&"meta-data"), "another instance");
    let after = files(&image);
    assert!(!after.keys().any(|name| name.starts_with("beehive-key-")));
    assert!(!text(&after, "config.txt").contains("beehive"));
    assert!(text(&after, "user-data.before-beehive").contains("#hostname: raspberrypi"), "the vendor's, not ours");
    sound(&image);
}

#[test]
fn what_is_not_known_or_not_stock_is_refused_and_nothing_is_written() {
    let bench = Bench::new();
    let card = bench.card();
    let with = |kind: Kind, more: &[(&'static str, &str)]| {
        let mut all: Vec<_> =
            stock(kind).into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name)).collect();
        all.extend(more.iter().map(|(name, text)| (*name, (*text).to_owned())).filter(|(_, text)| text != "-"));
        all
    };
    let bookworm = Kind::RaspberryPiOsBookworm;
    for (files, said) in [
        (vec![("bootarm.efi", "x".to_owned())], "no config.txt; no cmdline.txt"),
        (with(bookworm, &[("issue.txt", "-")]), "no issue.txt that says \"Raspberry Pi reference\""),
        (with(Kind::HypriotOs, &[("os-release", "NAME=Ubuntu")]), "no os-release that says HYPRIOT"),
        (with(bookworm, &[("sysconf.txt", "")]), "it has sysconf.txt"),
        (
            with(bookworm, &[("firstrun.sh", "#!/bin/bash\nimager_custom set_hostname x\n")]),
            "firstrun.sh is there, and it is not ours",
        ),
        (with(bookworm, &[("custom.toml", "config_version = 1\n")]), "custom.toml is there"),
        (with(bookworm, &[("cmdline.txt", "root=a systemd.run=/boot/firstrun.sh\n")]), "systemd.run=/boot/firstrun.sh"),
        (with(bookworm, &[("cmdline.txt", "\n")]), "the first line of cmdline.txt is empty"),
        (with(bookworm, &[("config.txt", "auto_initramfs=1\ndtoverlay=w1-gpio\n")]), "gives BCM4 to another user"),
    ] {
        let image = bench.path("some.img");
        disk(&image, 40 * MIB, MIB, &files);
        let before = fs::read(&image).unwrap();
        let out = bench.path("out.img");
        for target in [Target::DryRun, Target::InPlace, Target::Copy(out.clone())] {
            let error = prepare(&image, &card, &target).unwrap_err();
            assert!(error.why.contains(said), "{said}: {error}");
            assert_eq!(error.exit, ExitCode::Refused);
        }
        assert!(fs::read(&image).unwrap() == before && !out.exists() && !unfinished(&out).exists());
        fs::remove_file(image).unwrap();
    }
    // a system that is too old for the package: it would fail at the first boot, and nobody would see it
    let image = bench.image(Kind::HypriotOs);
    let before = fs::read(&image).unwrap();
    let error = prepare(&image, &card, &Target::InPlace).unwrap_err();
    assert!(error.exit == ExitCode::Refused && error.why.contains("systemd 241"), "{error}");
    assert!(error.why.contains("leave --package out"), "{error}");
    assert!(fs::read(&image).unwrap() == before);
    let without = Card { package: None, ..card.clone() };
    let said = report(&prepare(&image, &without, &Target::DryRun).unwrap(), &without, None);
    assert!(said.text.contains("note: no package: HypriotOS has systemd 241"), "{}", said.text);
    // the same on a Pi without a SHIM
    let image = bench.path("w1.img");
    disk(&image, 40 * MIB, MIB, &with(bookworm, &[("config.txt", "auto_initramfs=1\ndtoverlay=w1-gpio\n")]));
    let free = Card { shim: Shim::Absent, config_lines: Vec::new(), ..card.clone() };
    assert!(prepare(&image, &free, &Target::DryRun).is_ok());

    let packed = bench.put("packed.img", "\u{1f}\u{8b}");
    fs::write(&packed, b"\xfd7zXZ\0rest").unwrap();
    let error = prepare(&packed, &card, &Target::DryRun).unwrap_err();
    assert!(error.why.contains("xz -dk"), "{error}");
    let error = prepare(bench.dir.path(), &card, &Target::DryRun).unwrap_err();
    assert!(error.what.contains("is no file"), "{error}");
}

#[test]
fn what_has_no_room_is_refused_before_a_byte_is_written() {
    let bench = Bench::new();
    let mut card = bench.card();
    card.package = Some(vec![7; 45 * MIB as usize]);
    let image = bench.image(Kind::RaspberryPiOsBookworm);
    let before = fs::read(&image).unwrap();
    let error = prepare(&image, &card, &Target::InPlace).unwrap_err();
    assert!(error.what.contains("too full"), "{error}");
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn no_file_is_overwritten_and_only_a_whole_image_has_its_name() {
    let bench = Bench::new();
    let card = bench.card();
    let image = bench.image(Kind::RaspberryPiOsBookworm);
    let out = bench.put("out.img", "mine");
    let error = prepare(&image, &card, &Target::Copy(out.clone())).unwrap_err();
    assert!(error.what.contains("is there") && fs::read_to_string(&out).unwrap() == "mine", "{error}");
    // what a run that was cut off left is replaced
    let other = bench.path("other.img");
    fs::write(unfinished(&other), "half").unwrap();
    prepare(&image, &card, &Target::Copy(other.clone())).unwrap();
    assert!(!unfinished(&other).exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&other).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "there are keys in it");
    // in place it is closed before the keys are in it, and said; and once more where only that is missing
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let closed = bench.path("closed.img");
    fs::copy(&image, &closed).unwrap();
    for changes in [true, false] {
        open(&closed);
        let done = prepare(&closed, &card, &Target::InPlace).unwrap();
        assert_eq!((mode(&closed), done.mode_was, !done.changed.is_empty()), (0o600, Some(0o644), changes));
        let said = report(&done, &card, None);
        assert!(said.text.contains("mode is 0600 now, it was 0644"), "{}", said.text);
        assert_eq!(said.document["mode_was"], "0644");
    }
    assert_eq!(prepare(&closed, &card, &Target::InPlace).unwrap().mode_was, None);
    // without a secret it is nobody's affair
    open(&closed);
    prepare(&closed, &Card { credentials: Credentials::None, ..card.clone() }, &Target::InPlace).unwrap();
    assert_eq!(mode(&closed), 0o644);
    // in place, the file that ends in .part may be the only one there is
    fs::write(unfinished(&image), "half").unwrap();
    let error = prepare(&image, &card, &Target::InPlace).unwrap_err();
    assert!(error.what.contains(".part is there"), "{error}");
    let error = flash(
        &FlashArgs { image: unfinished(&image), to: "/dev/null".into(), yes: true, dry_run: false },
        &Machine::default(),
    )
    .unwrap_err();
    assert!(error.why.contains("cut off"), "{error}");
}

/// The secret is kept when the image is written and has no name yet: what cannot be kept leaves no image that seems to be one.
#[test]
fn an_image_whose_secret_cannot_be_kept_gets_no_name() {
    let bench = Bench::new();
    let card = bench.card();
    let image = bench.image(Kind::RaspberryPiOsBookworm);
    let (stock, out) = (fs::read(&image).unwrap(), bench.path("out.img"));
    let no = || Err(Trouble::new(ExitCode::Failed, "not kept", "the disk is full", "prepare it again"));
    let error = prepare_and(&image, &card, &Target::Copy(out.clone()), &mut || {
        assert!(unfinished(&out).exists() && !out.exists(), "written, and without its name");
        no()
    })
    .unwrap_err();
    assert!(error.what == "not kept" && !out.exists() && !unfinished(&out).exists(), "{error}");
    assert!(fs::read(&image).unwrap() == stock);
    let error = prepare_and(&image, &card, &Target::InPlace, &mut || no()).unwrap_err();
    assert!(error.fix.contains("rename it to") && unfinished(&image).exists() && !image.exists(), "{error}");
    // as it says
    fs::rename(unfinished(&image), &image).unwrap();
    prepare(&image, &card, &Target::InPlace).unwrap();
    // a dry run keeps nothing
    prepare_and(&image, &card, &Target::DryRun, &mut || panic!("it is kept")).unwrap();
}

#[test]
fn what_does_not_belong_together_is_refused_and_no_secret_is_shown() {
    let bench = Bench::new();
    let card = bench.card();
    let (node, login): (NodeName, card::Login) = ("pi-2".parse().unwrap(), "ann".parse().unwrap());
    let (keys, other) = (bench.path("crew/nodes/pi-2"), bench.path("crew/nodes/pi-1"));
    let config = bench.put("other.toml", "crew = \"c2\"\nnode = \"pi-2\"\nrole = \"node\"\n");
    let wrong = bench.put("wrong.toml", "crew = \"c1\"\nnode = \"pi-1\"\nrole = \"node\"\n");
    let private = bench.put("id", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n");
    let nothing = bench.put("nothing.pub", "# none\n");
    let text = bench.put("text.deb", "no package");
    let base = || plain(&node, &login);
    let overlays = |overlay: &str| vec![overlay.to_owned()];
    let (w1, bad, fine) = (overlays("w1-gpio"), overlays("a b"), overlays("rpi-poe-plus,i2c"));
    for (sources, said) in [
        (Sources { keys: Some(&other), ..base() }, "has the keys of pi-1"),
        (Sources { keys: Some(&keys), config: Some(&config), ..base() }, "has keys of crew c1"),
        (Sources { config: Some(&wrong), ..base() }, "is the configuration of pi-1"),
        (Sources { keys: Some(bench.dir.path()), ..base() }, "keys cannot be used"),
        (Sources { ssh_keys: std::slice::from_ref(&private), ..base() }, "is a private key"),
        (Sources { ssh_keys: std::slice::from_ref(&nothing), ..base() }, "has no SSH key"),
        (Sources { package: Some(&text), ..base() }, "is no Debian package"),
        (Sources { overlays: &w1, ..base() }, "takes BCM4"),
        (Sources { overlays: &bad, ..base() }, "is no overlay"),
        (Sources { cut: Cut::Overlay, ..base() }, "not known that the SHIM alone feeds it"),
        (Sources { cut: Cut::Overlay, config: Some(&config), ..base() }, "not known that the SHIM alone feeds it"),
    ] {
        let error = Card::read(&sources).unwrap_err();
        assert!(error.what.contains(said), "{said}: {error}");
    }
    assert!(Card::read(&Sources { overlays: &w1, shim: Shim::Absent, ..base() }).is_ok());
    let shim_fed = bench.path("beehive.toml");
    let both = Sources { cut: Cut::Overlay, config: Some(&shim_fed), overlays: &fine, ..base() };
    let lines = Card::read(&both).unwrap().config_lines;
    assert_eq!(lines[2..], [config_txt::POWEROFF_OVERLAY, "dtoverlay=rpi-poe-plus,i2c"]);
    for name in ["", "root", "Ann", "a;b", "-a", "1a", "a b"] {
        assert!(name.parse::<card::Login>().is_err(), "{name}");
    }

    // neither in what is shown of a card nor in what is said of it
    let image = bench.image(Kind::RaspberryPiOsBookworm);
    let said = report(&prepare(&image, &card, &Target::DryRun).unwrap(), &card, None);
    let all = format!("{card:?}{}{}", said.text, said.document);
    let secrets = fs::read_to_string(keys.join("identity.toml")).unwrap();
    let seeds: Vec<&str> = secrets.split('"').filter(|word| word.len() == 64).collect();
    assert!(seeds.len() >= 2, "there are seeds to look for");
    assert!(seeds.iter().all(|seed| !all.contains(seed)));
    assert!(said.text.contains("private keys are in the image"), "{}", said.text);
    let Credentials::NodeKeys(files) = &card.credentials else { panic!("keys") };
    assert!(files.iter().any(|file| file.name == "identity.toml"));
}

#[test]
fn the_script_does_its_work_twice_and_leaves_no_key_in_the_boot_partition() {
    let bench = Bench::new();
    let mut card = bench.card();
    card.package = None;
    let image = bench.image(Kind::DebianRaspi);
    prepare(&image, &card, &Target::InPlace).unwrap();
    // the boot partition as the running system would have it
    let root = bench.path("root");
    let boot = root.join("boot/firmware");
    for folder in ["etc/default", "var/log"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (name, bytes) in files(&image) {
        let path = boot.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(root.join("etc/hosts"), "127.0.0.1\tlocalhost\n127.0.1.1 rpi4-20240101\n").unwrap();
    let script = fs::read(boot.join("firstrun.sh")).unwrap();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut first = None;
    for _ in 0..2 {
        fs::write(bench.path("script"), &script).unwrap();
        let status =
            Command::new("sh").arg(bench.path("script")).env("BEEHIVE_FIRST_BOOT_ROOT", &root).status().unwrap();
        assert!(status.success());
        let log = read("var/log/beehive-first-boot.log");
        assert!(log.ends_with("beehive: done\n"), "{log}");
        let state = (
            read("etc/hostname"),
            read("etc/hosts"),
            read("etc/beehive/beehive.toml"),
            read("etc/default/raspi-extra-cmdline"),
            read("etc/default/raspi-firmware-custom"),
            fs::read_to_string(boot.join("cmdline.txt")).unwrap(),
        );
        assert_eq!(first.get_or_insert_with(|| state.clone()), &state, "the second time changes nothing");
    }
    let (name, hosts, _, extra, custom, line) = first.unwrap();
    assert_eq!((name.as_str(), hosts.as_str()), ("pi-2\n", "127.0.0.1\tlocalhost\n127.0.1.1\tpi-2\n"));
    assert_eq!(
        (extra.as_str(), custom.as_str()),
        ("cgroup_memory=1 cgroup_enable=memory ", "gpio=4=op,dh\ngpio=17=ip,pu\n")
    );
    assert!(line.ends_with("rootwait cgroup_memory=1 cgroup_enable=memory\n"), "an ordinary boot follows: {line}");
    assert!(!boot.join("firstrun.sh").exists() && !boot.join("beehive-key-identity.toml").exists());
    let keys = root.join("etc/beehive/identity");
    let mode =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777;
    assert_eq!((mode(&keys), mode(&keys.join("identity.toml"))), (0o700, 0o600));
    let there = crate::keys::Identity::load(&keys).unwrap();
    assert_eq!(there.name, "pi-2");
}

/// A system that cloud-init has brought up from a prepared card of our own image, below a folder.
struct System<'a> {
    bench: &'a Bench,
    root: PathBuf,
}

/// The programs that the script starts, but for those that only read. Each is a step at which a power cut may come.
const STEPS: [&str; 10] = ["chmod", "cp", "grep", "install", "mkdir", "mv", "rm", "sed", "ssh-keygen", "tr"];

impl<'a> System<'a> {
    fn new(bench: &'a Bench, files: &BTreeMap<String, Vec<u8>>) -> Self {
        let root = bench.path("system");
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        for folder in ["etc/default", "etc/ssh", "var/log", "boot/firmware"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let system = Self { bench, root };
        for (name, bytes) in files {
            fs::write(system.root.join("boot/firmware").join(name), bytes).unwrap();
        }
        system.put("etc/hosts", "127.0.0.1\tlocalhost\n");
        system.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        system.put("etc/ssh/ssh_host_ed25519_key", "the image's");
        system
    }

    fn put(&self, path: &str, text: &str) {
        fs::write(self.root.join(path), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A boot: cloud-init starts the script. With `cut` the power goes at that step, before it or after it.
    fn boot(&self, cut: Option<(usize, Side)>) -> bool {
        let shims = self.bench.path("shims");
        if !shims.exists() {
            fs::create_dir(&shims).unwrap();
            let shim = shims.join("shim");
            // the power is cut for everything of this run: its process group
            let text = format!(
                "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nread -r left <{0}/left\nread -r side <{0}/side\nif [ \"$left\" = 0 ]; \
                 then\n  [ \"$side\" = Before ] || \"${{0##*/}}\" \"$@\"\n  echo cut >{0}/left\n  kill -KILL 0\nfi\n[ \"$left\" = never ] || \
                 echo $((left - 1)) >{0}/left\nexec \"${{0##*/}}\" \"$@\"\n",
                self.bench.dir.path().display()
            );
            fs::write(&shim, text).unwrap();
            fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
            for step in STEPS {
                std::os::unix::fs::symlink("shim", shims.join(step)).unwrap();
            }
            // the whole machine's disks are no part of this
            std::os::unix::fs::symlink("/bin/true", shims.join("sync")).unwrap();
        }
        let (left, side) = cut.map_or(("never".to_owned(), Side::Before), |(nth, side)| (nth.to_string(), side));
        self.bench.put("left", &format!("{left}\n"));
        self.bench.put("side", &format!("{side:?}\n"));
        let status = Command::new("/bin/sh")
            .arg(self.root.join("boot/firmware/beehive-first-boot.sh"))
            .env("BEEHIVE_FIRST_BOOT_ROOT", &self.root)
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", shims.display()))
            .process_group(0)
            .status()
            .unwrap();
        let was_cut = fs::read_to_string(self.bench.path("left")).unwrap() == "cut\n";
        assert_ne!(status.success(), was_cut, "{}", self.read("var/log/beehive-first-boot.log"));
        was_cut
    }

    /// Everything is in place, and what has to be this card's own is.
    fn is_set_up(&self, at: &str) {
        let log = self.read("var/log/beehive-first-boot.log");
        assert!(log.ends_with("beehive: done\n"), "{at}: {log}");
        assert_eq!(
            (self.read("etc/hostname").as_str(), self.read("etc/beehive/enrolment.toml").as_str()),
            ("pi-2\n", "s")
        );
        let mode = fs::metadata(self.root.join("etc/beehive/enrolment.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{at}");
        assert!(
            !self.root.join("boot/firmware/beehive-enrolment.toml").exists(),
            "{at}: it has left the boot partition"
        );
        assert!(self.read("etc/beehive/beehive.toml").contains("crew = \"c1\""), "{at}");
        let id = self.read("etc/machine-id");
        assert!(id.len() == 33 && id != "0123456789abcdef0123456789abcdef\n", "{at}: {id}");
        assert!(self.read("etc/ssh/ssh_host_ed25519_key").contains("OPENSSH PRIVATE KEY"), "{at}");
        assert!(self.read("etc/ssh/ssh_host_ed25519_key.pub").starts_with("ssh-ed25519 "), "{at}");
        assert!(!self.root.join("etc/ssh/beehive.new").exists(), "{at}");
        let extra = self.read("etc/default/raspi-extra-cmdline");
        assert_eq!(extra, "cgroup_memory=1 cgroup_enable=memory ", "{at}");
        assert_eq!(self.read("etc/default/raspi-firmware-custom"), "gpio=4=op,dh\ngpio=17=ip,pu\n", "{at}");
    }
}

fn own_card(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    let mut card = bench.card();
    card.package = None;
    card.credentials = Credentials::Enrolment(card::Enrolment {
        file: card::SecretFile { name: "enrolment.toml".to_owned(), bytes: b"s".to_vec().into() },
        card: beehive_mqtt::sign::PublicKey([7; 32]),
    });
    let image = bench.image(Kind::Own);
    prepare(&image, &card, &Target::InPlace).unwrap();
    files(&image)
}

/// Under cloud-init the script is asked at each boot. Whatever step the power goes at, before it or after it, the next boot ends with
/// everything in place, and the one after it changes nothing.
#[test]
fn a_first_boot_under_cloud_init_that_is_cut_off_anywhere_is_brought_to_its_end_by_the_next() {
    let bench = Bench::new();
    let files = own_card(&bench);
    for side in [Side::Before, Side::After] {
        for nth in 0.. {
            let system = System::new(&bench, &files);
            let at = format!("{side:?} step {nth}");
            let was_cut = system.boot(Some((nth, side)));
            let there = ["ssh_host_ed25519_key"].map(|name| system.root.join("etc/ssh").join(name).exists());
            assert_eq!(there, [true], "{at}: a Pi without host keys lets nobody in");
            if was_cut {
                assert!(!system.boot(None), "{at}");
            }
            system.is_set_up(&at);
            if !was_cut {
                assert!(nth > 20, "{nth}: the steps are seen");
                break;
            }
        }
    }
}

#[test]
fn under_cloud_init_a_step_that_failed_is_tried_at_the_next_boot_and_what_is_done_is_left_alone() {
    let bench = Bench::new();
    let files = own_card(&bench);
    let system = System::new(&bench, &files);
    // nothing can be written there
    fs::remove_dir(system.root.join("etc/default")).unwrap();
    system.put("etc/default", "a file");
    system.boot(None);
    let log = system.read("var/log/beehive-first-boot.log");
    assert!(log.contains("FAILED: regenerated") && log.ends_with("the next boot goes on with it\n"), "{log}");
    let own = |system: &System<'_>| (system.read("etc/machine-id"), system.read("etc/ssh/ssh_host_ed25519_key"));
    let first = own(&system);
    // somebody sets it right, and changes what was done already
    fs::remove_file(system.root.join("etc/default")).unwrap();
    fs::create_dir(system.root.join("etc/default")).unwrap();
    let edited = system.read("etc/beehive/beehive.toml") + "# edited\n";
    system.put("etc/beehive/beehive.toml", &edited);
    system.boot(None);
    system.is_set_up("the second boot");
    assert_eq!((own(&system), system.read("etc/beehive/beehive.toml")), (first.clone(), edited));
    // done: it is not even begun again
    let log = system.read("var/log/beehive-first-boot.log");
    system.boot(None);
    assert_eq!(system.read("var/log/beehive-first-boot.log"), log);
    // unless a secret waits there again
    system.put("boot/firmware/beehive-enrolment.toml", "s");
    fs::remove_file(system.root.join("etc/beehive/enrolment.toml")).unwrap();
    system.boot(None);
    system.is_set_up("a secret that was put there again");
    assert_eq!(own(&system), first);
}

/// Options of somebody for whom no crew's folder is there.
fn nobody() -> ConsoleOptions {
    let crew = ["beehive", "--crew", "no-such-crew-on-this-machine", "version"];
    crate::cli::Cli::try_parse_from(crew).unwrap().options
}

/// Everything from the crew's folder: the card carries a configuration and a secret, and no key.
#[test]
fn a_card_of_a_crews_folder_carries_a_single_use_secret_and_no_key() {
    let bench = Bench::new();
    let crew = bench.path("of-crew");
    let words = ["beehive", "crew", "init", "c1", "--nodes", "2", "--operator", "ann", "--dir", crew.to_str().unwrap()];
    let made = crate::cli::Cli::try_parse_from(words).unwrap();
    let crate::cli::Command::Crew(command) = &made.command else { panic!("crew") };
    crate::crew::command::crew(command, &made.options).unwrap();
    let image = bench.image(Kind::RaspberryPiOsBookworm);
    let prepare = |more: &[&str]| {
        let words =
            ["beehive", "image", "prepare", "--dir", crew.to_str().unwrap(), "--image", image.to_str().unwrap()];
        let line = crate::cli::Cli::try_parse_from(words.iter().chain(more).copied()).unwrap();
        let crate::cli::Command::Image(command) = &line.command else { panic!("image") };
        run(command, &line.options)
    };
    let (first, second) = (bench.path("1.img"), bench.path("2.img"));
    let said = prepare(&["--node", "c1-001", "--dry-run"]).unwrap();
    assert!(said.text.contains("beehive-enrolment.toml") && !crew.join("enrolments").exists(), "{}", said.text);
    let said = prepare(&["--node", "c1-001", "--out", first.to_str().unwrap()]).unwrap();
    assert!(said.text.contains("crew enrol c1-001"), "{}", said.text);
    prepare(&["--node", "c1-001", "--out", second.to_str().unwrap()]).unwrap();
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the same card");
    let there = files(&first);
    assert!(there.keys().all(|name| !name.starts_with("beehive-key-")), "{:?}", there.keys());
    let secret = crate::enrol::card::CardSecret::parse(&text(&there, "beehive-enrolment.toml")).unwrap();
    assert_eq!((secret.node.as_str(), secret.role, secret.port), ("c1-001", beehive_mqtt::node::Role::Master, 7884));
    assert!(text(&there, "beehive-node.toml").contains("role = \"master\""));
    let seed = beehive_mqtt::sign::PublicKey(*secret.key.seed()).to_string();
    assert!(!format!("{said:?}").contains(&seed), "the secret is not said");
    let error = prepare(&["--node", "c1-009", "--dry-run"]).unwrap_err();
    assert_eq!(error.exit, ExitCode::Refused);
    // what is refused or fails spends no secret: the one that waits is still the one
    let entry = || fs::read_to_string(crew.join("enrolments/c1-001.toml")).unwrap();
    let (before, renewed) = (entry(), bench.path("3.img"));
    let typo = bench.path("no-such.pub");
    let strange = bench.path("strange.img");
    disk(&strange, 40 * MIB, MIB, &[("bootarm.efi", "x".to_owned())]);
    let part = unfinished(&image);
    fs::write(&part, "half").unwrap();
    let nowhere = bench.path("no-such-folder/4.img");
    for (more, said) in [
        (vec!["--out", renewed.to_str().unwrap(), "--ssh-key", typo.to_str().unwrap()], "no-such.pub"),
        (vec!["--out", first.to_str().unwrap()], "1.img is there"),
        (vec!["--in-place"], ".part is there"),
        (vec!["--out", nowhere.to_str().unwrap()], "no-such-folder"),
        (vec!["--out", renewed.to_str().unwrap(), "--overlay", "w1-gpio"], "takes BCM4"),
    ] {
        let error = prepare(&[vec!["--node", "c1-001", "--renew"], more].concat()).unwrap_err();
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert_eq!(entry(), before, "{said}");
    }
    let strange = [
        "beehive",
        "image",
        "prepare",
        "--dir",
        crew.to_str().unwrap(),
        "--node",
        "c1-001",
        "--renew",
        "--image",
        strange.to_str().unwrap(),
        "--out",
        renewed.to_str().unwrap(),
    ];
    let line = crate::cli::Cli::try_parse_from(strange).unwrap();
    let crate::cli::Command::Image(command) = &line.command else { panic!("image") };
    assert!(run(command, &line.options).unwrap_err().what.contains("none of the images that are known"));
    assert_eq!(entry(), before);
    assert!(!renewed.exists() && !unfinished(&renewed).exists());
    fs::remove_file(part).unwrap();
    // another secret is another card
    prepare(&["--node", "c1-001", "--renew", "--out", renewed.to_str().unwrap()]).unwrap();
    assert_ne!(text(&files(&renewed), "beehive-enrolment.toml"), text(&there, "beehive-enrolment.toml"));
}

/// The secret goes where the service looks for it, and what an image brought of another machine is made anew.
#[test]
fn the_script_puts_the_secret_in_place_and_makes_the_machine_a_new_one() {
    let bench = Bench::new();
    let mut card = bench.card();
    card.package = None;
    let secret = b"secret = \"no parser looks here\"\n".to_vec();
    card.credentials = Credentials::Enrolment(card::Enrolment {
        file: card::SecretFile { name: "enrolment.toml".to_owned(), bytes: secret.clone().into() },
        card: beehive_mqtt::sign::PublicKey([7; 32]),
    });
    let image = bench.image(Kind::DebianRaspi);
    prepare(&image, &card, &Target::InPlace).unwrap();
    let root = bench.path("root");
    for folder in ["etc/default", "etc/ssh", "var/log", "var/lib/dbus", "run/systemd", "boot/firmware", "proc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (name, bytes) in files(&image) {
        let path = root.join("boot/firmware").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(root.join("etc/ssh/ssh_host_ed25519_key"), "the image's").unwrap();
    fs::write(root.join("etc/ssh/ssh_host_dsa_key"), "the image's, of a kind that is not made any more").unwrap();
    // a Pi without a clock: this boot began in 1970, and the image's files are of later
    fs::write(root.join("proc/1"), "").unwrap();
    File::options().write(true).open(root.join("proc/1")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    for id in ["etc/machine-id", "var/lib/dbus/machine-id"] {
        fs::write(root.join(id), "0123456789abcdef0123456789abcdef\n").unwrap();
    }
    let script = fs::read(root.join("boot/firmware/firstrun.sh")).unwrap();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let run_script = |script: &[u8]| {
        fs::write(bench.path("script"), script).unwrap();
        let done = Command::new("sh").arg(bench.path("script")).env("BEEHIVE_FIRST_BOOT_ROOT", &root).status().unwrap();
        assert!(done.success());
        let log = read("var/log/beehive-first-boot.log");
        assert!(log.ends_with("beehive: done\n"), "{log}");
    };
    run_script(&script);
    assert_eq!(read("etc/beehive/enrolment.toml").as_bytes(), secret);
    let mode = fs::metadata(root.join("etc/beehive/enrolment.toml")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    assert!(!root.join("boot/firmware/beehive-enrolment.toml").exists(), "it has left the boot partition");
    let id = read("etc/machine-id");
    assert!(
        id.len() == 33 && id != "0123456789abcdef0123456789abcdef\n" && read("var/lib/dbus/machine-id") == id,
        "{id}"
    );
    let key = read("etc/ssh/ssh_host_ed25519_key");
    assert!(key.contains("OPENSSH PRIVATE KEY"), "{key}");
    let names = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("etc/ssh"), ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"], "the kinds that were there");
    // once for this card, whatever the clock says
    run_script(&script);
    assert_eq!((read("etc/machine-id"), read("etc/ssh/ssh_host_ed25519_key")), (id.clone(), key.clone()));

    // the same system with another card's files has keys of its own; a machine-id that systemd has just made stays
    card.credentials = Credentials::Enrolment(card::Enrolment {
        file: card::SecretFile { name: "enrolment.toml".to_owned(), bytes: secret.into() },
        card: beehive_mqtt::sign::PublicKey([8; 32]),
    });
    prepare(&image, &card, &Target::InPlace).unwrap();
    fs::write(root.join("run/systemd/first-boot"), "").unwrap();
    run_script(&files(&image)["firstrun.sh"]);
    assert_eq!(read("etc/machine-id"), id);
    let other = read("etc/ssh/ssh_host_ed25519_key");
    assert!(other.contains("OPENSSH PRIVATE KEY") && other != key, "{other}");
}

#[test]
fn the_command_line_wants_to_know_where_the_image_goes() {
    let bench = Bench::new();
    let image = bench.image(Kind::HypriotOs);
    let line = |more: &[&str]| {
        let words =
            ["beehive", "image", "prepare", "--node", "pi-2", "--image"].into_iter().chain([image.to_str().unwrap()]);
        crate::cli::Cli::try_parse_from(words.chain(more.iter().copied())).map(|line| match line.command {
            crate::cli::Command::Image(command) => command,
            other => panic!("{other:?}"),
        })
    };
    let error = run(&line(&[]).unwrap(), &nobody()).unwrap_err();
    assert_eq!((error.exit, error.fix.contains("--in-place")), (ExitCode::Usage, true));
    assert!(line(&["--out", "a", "--in-place"]).is_err());
    assert!(line(&["--login", "root", "--dry-run"]).is_err());
    let said = run(&line(&["--dry-run"]).unwrap(), &nobody()).unwrap();
    assert!(said.text.contains("HypriotOS") && said.text.ends_with("nothing was written\n"), "{}", said.text);
    assert_eq!(said.document["image"], "hypriotos");
    assert_eq!(said.document["out"], Value::Null);
    assert!(said.document["notes"].as_array().unwrap().len() == 4, "no key, no configuration, no keys, no package");
}

/// "At most 5 s beyond copying", on an image of the size of a small Raspberry Pi OS, with a package of 6 MB.
#[test]
fn preparing_costs_little_beyond_copying() {
    let bench = Bench::new();
    let mut card = bench.card();
    card.package = Some(vec![7; 6 * MIB as usize]);
    let image = bench.path("large.img");
    disk(&image, 256 * MIB, 40 * MIB, &stock(Kind::RaspberryPiOsBookworm));
    let done = prepare(&image, &card, &Target::Copy(bench.path("out.img"))).unwrap();
    println!(
        "300 MB image: {} ms beyond {} ms of copying; {} bytes changed",
        done.preparing.as_millis(),
        done.copying.as_millis(),
        done.written_bytes
    );
    assert!(done.preparing < Duration::from_secs(5), "{:?}", done.preparing);
}
