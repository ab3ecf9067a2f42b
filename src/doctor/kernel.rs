//! What the kernel has to offer: the memory cgroup, modules, settings, swap, packet filters.

use super::{Finding, Fix, Id, Machine, Minor, Patient, Severity, Wanted};

/// What the firmware of a Pi leaves out unless it is asked for (k3s issues 2067, 3283; docs.k3s.io, "Operating Systems").
pub const MEMORY_WORDS: [&str; 2] = ["cgroup_memory=1", "cgroup_enable=memory"];

/// What the file says that Raspberry Pi OS has had since bookworm where the command line was before.
const MOVED: &str = "DO NOT EDIT";

/// As much of a stray line as an error shows.
const SHOWN_CHARS: usize = 80;

/// From here on a kubelet warns of version 1 of the cgroups (kubernetes.io, "cgroup v1 maintenance mode", 1.31).
const CGROUP_V1_WARNS: Minor = Minor { major: 1, minor: 31 };
/// From here on it does not start on it (`failCgroupV1`, KEP-4569, 1.35).
const CGROUP_V1_FAILS: Minor = Minor { major: 1, minor: 35 };

/// Overlays of images, and bridged packets seen by the packet filter (kubernetes.io, "Container Runtimes").
pub const MODULES: [&str; 2] = ["overlay", "br_netfilter"];

/// Kernel settings that a cluster needs, all of them 1 (kubernetes.io, "Container Runtimes"; kubeadm's preflight).
pub const SYSCTLS: [&str; 2] = ["net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"];

/// Versions of iptables that duplicate rules until the Pi is slow (docs.k3s.io, "Known Issues": 1.8.0 to 1.8.4; k3s issue 3117).
const BROKEN_IPTABLES: std::ops::RangeInclusive<(u32, u32, u32)> = (1, 8, 0)..=(1, 8, 4);

/// All checks of this module.
pub fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = memory_cgroup(patient.machine).into_iter().collect();
    findings.extend(cmdline_lines(patient.machine));
    findings.extend(cgroup_version(patient));
    findings.extend(cgroup_driver(patient));
    findings.extend(modules(patient));
    findings.extend(sysctls(patient));
    findings.extend(swap(patient));
    findings.extend(iptables(patient));
    findings.extend(firewall(patient.machine));
    findings
}

/// The file with the kernel's command line that the firmware reads; none where there is no such file, as on a PC.
pub fn boot_file(machine: &Machine) -> Option<&'static str> {
    match firmware_file(machine, "cmdline.txt") {
        Some(file) if file.starts_with("boot/firmware/") => Some("boot/firmware/cmdline.txt"),
        Some(_) => Some("boot/cmdline.txt"),
        None => None,
    }
}

/// Which file of that name the firmware reads; none where there is none.
pub fn firmware_file(machine: &Machine, name: &str) -> Option<String> {
    let new = format!("boot/firmware/{name}");
    let old = format!("boot/{name}");
    let real = |path: &str| machine.text(path).is_some_and(|text| !text.contains(MOVED));
    match (real(&new), real(&old)) {
        (true, false) => Some(new),
        (false, true) => Some(old),
        (false, false) => None,
        // an upgraded system may have both: the firmware's own partition tells
        (true, true) => {
            let mounts = machine.text("proc/mounts").unwrap_or_default();
            let mounted = |point: &str| mounts.lines().any(|line| line.split(' ').nth(1) == Some(point));
            if mounted("/boot") && !mounted("/boot/firmware") { Some(old) } else { Some(new) }
        }
    }
}

/// Whether version 2 of the cgroups is the one in use.
fn unified(machine: &Machine) -> bool {
    machine.has("sys/fs/cgroup/cgroup.controllers")
}

fn memory_cgroup(machine: &Machine) -> Option<Finding> {
    // a kernel without version 1 of this controller does not name it in /proc/cgroups (k3s issue 8890)
    let (on, evidence) = match machine.text("sys/fs/cgroup/cgroup.controllers") {
        Some(controllers) => (
            controllers.split_whitespace().any(|name| name == "memory"),
            "\"memory\" is not among /sys/fs/cgroup/cgroup.controllers",
        ),
        None => match machine.text("proc/cgroups") {
            Some(table) => (
                table.lines().any(|line| {
                    let mut fields = line.split_whitespace();
                    fields.next() == Some("memory") && fields.nth(2) == Some("1")
                }),
                "/proc/cgroups does not have \"memory\" enabled",
            ),
            None => {
                return Some(Finding::new(
                    Severity::Error,
                    Id::MemoryCgroup,
                    "there is neither /sys/fs/cgroup/cgroup.controllers nor /proc/cgroups: this kernel has no cgroups",
                    "use a kernel with cgroups",
                ));
            }
        },
    };
    if on {
        return None;
    }
    let error = |evidence: String, remedy: String| Finding::new(Severity::Error, Id::MemoryCgroup, evidence, remedy);
    let words_of = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let booted = words_of(&machine.text("proc/cmdline").unwrap_or_default());
    let lacks = |line: &[String]| MEMORY_WORDS.into_iter().filter(|word| !line.iter().any(|w| w == word)).collect();
    let missing: Vec<&'static str> = lacks(&booted);
    let off = format!("the memory cgroup is off: {evidence}");
    if missing.is_empty() {
        let remedy = "this kernel was built without it (CONFIG_MEMCG): use another kernel";
        return Some(error(
            format!("{off}, although it was started with {}", MEMORY_WORDS.join(" ")),
            remedy.to_owned(),
        ));
    }
    let Some(file) = boot_file(machine) else {
        let remedy = format!(
            "add {} to the kernel's command line in the boot loader's configuration, and restart",
            missing.join(" ")
        );
        return Some(error(off, remedy));
    };
    let text = machine.text(file).unwrap_or_default();
    let missing: Vec<&'static str> = lacks(&words_of(text.lines().next().unwrap_or_default()));
    if missing.is_empty() {
        return Some(error(format!("{off}; /{file} asks for it since the last start"), "restart this Pi".to_owned()));
    }
    let words = missing.join(" ");
    let remedy = format!("add {words} to the one line of /{file}, without a line break, and restart");
    Some(error(off, remedy).fixed_by(Fix::BootWords { file, words: missing }))
}

fn cmdline_lines(machine: &Machine) -> Option<Finding> {
    let file = boot_file(machine)?;
    let text = machine.text(file)?;
    let stray = text.lines().skip(1).find(|line| !line.trim().is_empty())?;
    let shown: String = stray.chars().take(SHOWN_CHARS).collect();
    Some(Finding::new(
        Severity::Warning,
        Id::CmdlineLines,
        format!("/{file} has a second line, which the firmware does not read: {shown:?}"),
        "put what is on it at the end of the first line, separated by a space, and restart",
    ))
}

fn cgroup_version(patient: &Patient<'_>) -> Option<Finding> {
    if unified(patient.machine) {
        return None;
    }
    let evidence = "version 1 of the cgroups is in use: /sys/fs/cgroup/cgroup.controllers is not there".to_owned();
    let remedy = "bring the system to Debian 11 or newer, or start the kernel with systemd.unified_cgroup_hierarchy=1";
    let severity = match patient.subject.version {
        Some(version) if version >= CGROUP_V1_FAILS => Severity::Error,
        Some(version) if version >= CGROUP_V1_WARNS => Severity::Warning,
        Some(_) => return None,
        None => Severity::Note,
    };
    let evidence =
        format!("{evidence}; Kubernetes warns from {CGROUP_V1_WARNS} on and refuses from {CGROUP_V1_FAILS} on");
    Some(Finding::new(severity, Id::CgroupV1, evidence, remedy))
}

fn cgroup_driver(patient: &Patient<'_>) -> Option<Finding> {
    let machine = patient.machine;
    // k3s brings a containerd of its own, with its own configuration
    if patient.subject.engine != Wanted::Kubeadm || !unified(machine) || !machine.has("usr/bin/containerd") {
        return None;
    }
    let text = machine.text("etc/containerd/config.toml").unwrap_or_default();
    let set = |line: &str| {
        line.split_once('=').is_some_and(|(key, value)| (key.trim(), value.trim()) == ("SystemdCgroup", "true"))
    };
    if text.lines().any(set) {
        return None;
    }
    Some(Finding::new(
        Severity::Warning,
        Id::CgroupDriver,
        "/etc/containerd/config.toml does not say SystemdCgroup = true, and a kubelet set up by kubeadm (from 1.22 on) lets systemd manage cgroups",
        "write `containerd config default` to that file, set SystemdCgroup = true in it, and restart containerd",
    ))
}

/// How a module is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    BuiltIn,
    Loaded,
    Loadable,
    Missing,
}

fn module(machine: &Machine, name: &str) -> Module {
    let release = machine.word("proc/sys/kernel/osrelease").unwrap_or_default();
    let lists = |list: &str| {
        let text = machine.text(&format!("lib/modules/{release}/{list}")).unwrap_or_default();
        let file = format!("/{name}.ko");
        // "kernel/fs/overlayfs/overlay.ko", "….ko.xz: kernel/…"
        text.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&file)))
    };
    let listed = |line: &str| line.split(' ').next() == Some(name);
    // what a kernel has that was built without modules shows by what it does
    let works = match name {
        "br_netfilter" => machine.has(&sysctl_path(SYSCTLS[1])),
        "overlay" => {
            machine.text("proc/filesystems").is_some_and(|text| text.lines().any(|l| l.ends_with("\toverlay")))
        }
        _ => false,
    };
    if machine.text("proc/modules").is_some_and(|text| text.lines().any(listed)) {
        Module::Loaded
    } else if lists("modules.builtin") || works {
        Module::BuiltIn
    } else if lists("modules.dep") {
        Module::Loadable
    } else {
        Module::Missing
    }
}

/// Whether the running kernel has a module.
pub(super) fn has_module(machine: &Machine, name: &str) -> bool {
    match module(machine, name) {
        Module::BuiltIn | Module::Loaded => true,
        Module::Loadable | Module::Missing => false,
    }
}

/// Whether a module is loaded at each start (modules-load.d(5)).
fn loaded_at_start(machine: &Machine, name: &str) -> bool {
    let folders = ["etc/modules-load.d", "usr/lib/modules-load.d", "lib/modules-load.d"];
    let files = folders.into_iter().flat_map(|folder| {
        machine
            .names(folder)
            .into_iter()
            .filter(|name| name.ends_with(".conf"))
            .map(move |name| format!("{folder}/{name}"))
    });
    files
        .chain(["etc/modules".to_owned()])
        .filter_map(|path| machine.text(&path))
        .any(|text| text.lines().any(|line| line.trim() == name))
}

fn modules(patient: &Patient<'_>) -> Vec<Finding> {
    let machine = patient.machine;
    let mut findings = Vec::new();
    for name in MODULES {
        let fix = || Fix::Modules(vec![name]);
        let (severity, evidence) = match (module(machine, name), patient.subject.engine) {
            (Module::BuiltIn, _) | (Module::Loaded, Wanted::K3s) => continue,
            (Module::Loaded, Wanted::Kubeadm) if loaded_at_start(machine, name) => continue,
            (Module::Loaded, Wanted::Kubeadm) => {
                (Severity::Warning, format!("{name} is loaded, and will not be after the next start"))
            }
            (Module::Loadable, Wanted::Kubeadm) => (Severity::Error, format!("{name} is not loaded")),
            (Module::Loadable, Wanted::K3s) => (Severity::Note, format!("{name} is not loaded; k3s loads it itself")),
            (Module::Missing, _) => {
                let release = machine.word("proc/sys/kernel/osrelease").unwrap_or_default();
                let upgraded =
                    !machine.has(&format!("lib/modules/{release}")) && !machine.names("lib/modules").is_empty();
                let (evidence, remedy) = if !upgraded {
                    (
                        format!("this kernel ({release}) has no module {name}"),
                        "use a kernel that has it, such as Raspberry Pi OS'",
                    )
                } else {
                    let evidence = format!(
                        "{name} is not loaded, and /lib/modules/{release} is not there: the kernel was upgraded since the last start"
                    );
                    (evidence, "restart this Pi")
                };
                findings.push(Finding::new(Severity::Error, Id::KernelModule, evidence, remedy));
                continue;
            }
        };
        let remedy = format!("load it (modprobe {name}), and write its name to a file in /etc/modules-load.d");
        findings.push(Finding::new(severity, Id::KernelModule, evidence, remedy).fixed_by(fix()));
    }
    findings
}

/// Where the kernel shows a setting.
pub(super) fn sysctl_path(key: &str) -> String {
    format!("proc/sys/{}", key.replace('.', "/"))
}

fn sysctls(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for key in SYSCTLS {
        let seen = match patient.machine.word(&sysctl_path(key)) {
            Some(value) if value == "1" => continue,
            Some(value) => format!("{key} is {value}"),
            None => format!("{key} is not there (/{}); it comes with the module br_netfilter", sysctl_path(key)),
        };
        let (severity, evidence) = match patient.subject.engine {
            Wanted::Kubeadm => (Severity::Error, format!("{seen}; it has to be 1, or no packet reaches a pod")),
            Wanted::K3s => (Severity::Note, format!("{seen}; k3s sets it itself")),
        };
        let remedy = format!("write {key} = 1 to a file in /etc/sysctl.d, and run sysctl --system");
        findings.push(Finding::new(severity, Id::Sysctl, evidence, remedy).fixed_by(Fix::Sysctls(vec![key])));
    }
    findings
}

/// Whether a line of fstab(5) adds swap at each start.
pub(super) fn is_swap_line(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    !line.trim_start().starts_with('#')
        && fields.get(2) == Some(&"swap")
        && !fields.get(3).is_some_and(|options| options.split(',').any(|option| option == "noauto"))
}

/// The setting of dphys-swapfile(8) for the size of Raspberry Pi OS' swap file, in MB; without it the size is computed.
pub(super) const DPHYS_SIZE: &str = "CONF_SWAPSIZE";
pub(super) const DPHYS_FILE: &str = "etc/dphys-swapfile";

/// Whether dphys-swapfile adds swap at each start.
pub(super) fn dphys_is_on(machine: &Machine) -> bool {
    let there = machine.has("usr/sbin/dphys-swapfile") || machine.has("sbin/dphys-swapfile");
    let off =
        |line: &str| line.split_once('=').is_some_and(|(key, size)| (key.trim(), size.trim()) == (DPHYS_SIZE, "0"));
    there && machine.text(DPHYS_FILE).is_some_and(|text| !text.lines().any(off))
}

fn swap(patient: &Patient<'_>) -> Option<Finding> {
    let machine = patient.machine;
    let table = machine.text("proc/swaps").unwrap_or_default();
    let active: Vec<String> =
        table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    let at_start = machine.text("etc/fstab").is_some_and(|text| text.lines().any(is_swap_line)) || dphys_is_on(machine);
    let compressed = |path: &String| path.starts_with("/dev/zram");
    let remedy =
        "switch it off (swapoff -a), and take it out of /etc/fstab; set CONF_SWAPSIZE=0 in /etc/dphys-swapfile";
    let zram = "; remove the package that sets up zram (zram-tools, systemd-zram-generator, rpi-swap)";
    let zram = if active.iter().any(compressed) { zram } else { "" };
    let (severity, evidence) = match (patient.subject.engine, active.is_empty()) {
        (Wanted::Kubeadm, false) => {
            (Severity::Error, format!("swap is on ({}), and kubelet does not start with it", active.join(", ")))
        }
        (Wanted::Kubeadm, true) if at_start => {
            (Severity::Warning, "swap is off now, and will be on after the next start".to_owned())
        }
        // k3s runs its kubelet with failSwapOn=false; compressed memory costs no card
        (Wanted::K3s, false) if !active.iter().all(compressed) => (
            Severity::Warning,
            format!(
                "swap is on ({}): k3s runs, and a Pi that swaps to its card is slow and wears it",
                active.join(", ")
            ),
        ),
        (Wanted::Kubeadm | Wanted::K3s, _) => return None,
    };
    Some(Finding::new(severity, Id::Swap, evidence, format!("{remedy}{zram}")).fixed_by(Fix::SwapOff { active }))
}

fn iptables(patient: &Patient<'_>) -> Vec<Finding> {
    let machine = patient.machine;
    let there = ["usr/sbin/iptables", "sbin/iptables"].into_iter().any(|path| machine.has(path));
    if !there {
        return match patient.subject.engine {
            // it brings its own
            Wanted::K3s => Vec::new(),
            Wanted::Kubeadm => vec![Finding::new(
                Severity::Error,
                Id::Iptables,
                "iptables is not installed: neither /usr/sbin/iptables nor /sbin/iptables",
                "apt-get install iptables",
            )],
        };
    }
    let nft = machine.link("etc/alternatives/iptables").is_some_and(|link| link.ends_with("nft"));
    let variant = if nft { "nf_tables" } else { "legacy" };
    let mut findings = Vec::new();
    let version = machine.package("iptables");
    if let Some(version) = version.filter(|version| three(version).is_some_and(|v| BROKEN_IPTABLES.contains(&v))) {
        findings.push(Finding::new(
            Severity::Warning,
            Id::Iptables,
            format!("iptables {version} ({variant}) duplicates rules until the network is slow; 1.8.0 to 1.8.4 do"),
            "bring it to 1.8.5 or newer; k3s may use its own with --prefer-bundled-bin",
        ));
    }
    let legacy = machine.word("proc/net/ip_tables_names");
    if let (true, Some(tables)) = (nft, legacy) {
        findings.push(Finding::new(
            Severity::Warning,
            Id::Iptables,
            format!(
                "iptables is the nf_tables one, and the legacy one has rules too (tables {})",
                tables.replace('\n', ", ")
            ),
            "let one kind alone have rules: find who uses iptables-legacy, end it, and restart this Pi",
        ));
    }
    findings
}

/// The three numbers that a Debian version begins with.
fn three(version: &str) -> Option<(u32, u32, u32)> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest).split('-').next()?;
    let mut numbers = upstream.split('.').map(|number| number.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

fn firewall(machine: &Machine) -> Vec<Finding> {
    let ufw =
        machine.text("etc/ufw/ufw.conf").is_some_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
    let wanted = |unit: &str| {
        ["multi-user.target.wants", "sysinit.target.wants"]
            .into_iter()
            .any(|target| machine.has(&format!("etc/systemd/system/{target}/{unit}.service")))
    };
    let on = [
        (ufw, "ufw", "/etc/ufw/ufw.conf says ENABLED=yes"),
        (wanted("firewalld"), "firewalld", "firewalld.service is enabled"),
        (
            wanted("nftables"),
            "nftables",
            "nftables.service is enabled, which empties all rules when it is started again",
        ),
    ];
    on.into_iter()
        .filter(|(on, ..)| *on)
        .map(|(_, name, evidence)| {
            Finding::new(
                Severity::Warning,
                Id::Firewall,
                format!("a firewall is on: {evidence}"),
                format!("switch {name} off, or let the crew's Pis through: TCP 6443 to the master, TCP 10250 and UDP 8472 between all"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::trees::{Answers, Tree, found, one};
    use super::super::{Fix, Id, Minor, Severity, Subject, Wanted};
    use super::*;
    use beehive_mqtt::node::Role;

    fn subject(engine: Wanted, version: &str) -> Subject {
        Subject::new(Role::Node, engine, version)
    }

    fn of(tree: &Tree, engine: Wanted, id: Id) -> Vec<Finding> {
        found(&tree.examine(&Answers::default(), &subject(engine, "v1.30.0")), id)
    }

    #[test]
    fn a_memory_cgroup_that_is_off_names_the_file_in_use_and_the_words() {
        for (tree, file) in [(Tree::bookworm(), "boot/firmware/cmdline.txt"), (Tree::bullseye(), "boot/cmdline.txt")] {
            let finding = one(of(&tree, Wanted::K3s, Id::MemoryCgroup));
            assert_eq!(finding.severity, Severity::Error);
            let told = format!("add cgroup_memory=1 cgroup_enable=memory to the one line of /{file}");
            assert!(finding.remedy.contains(&told), "{finding:?}");
            assert_eq!(finding.fix, Some(Fix::BootWords { file, words: MEMORY_WORDS.to_vec() }));
        }
        // one word is there already
        let tree = Tree::bookworm();
        tree.put("boot/firmware/cmdline.txt", "console=tty1 cgroup_enable=memory rootwait\n");
        let finding = one(of(&tree, Wanted::K3s, Id::MemoryCgroup));
        assert!(finding.remedy.contains("add cgroup_memory=1 to the one line"), "{finding:?}");
        // the words are there, on a line that nobody reads
        tree.put("boot/firmware/cmdline.txt", "console=tty1\ncgroup_memory=1 cgroup_enable=memory\n");
        let finding = one(of(&tree, Wanted::K3s, Id::MemoryCgroup));
        assert!(finding.remedy.contains("add cgroup_memory=1 cgroup_enable=memory to"), "{finding:?}");
        assert_eq!(one(of(&tree, Wanted::K3s, Id::CmdlineLines)).severity, Severity::Warning);
    }

    #[test]
    fn a_memory_cgroup_that_only_a_restart_or_another_kernel_brings_says_so() {
        let tree = Tree::bookworm();
        tree.put("boot/firmware/cmdline.txt", "console=tty1 cgroup_memory=1 cgroup_enable=memory\n");
        let finding = one(of(&tree, Wanted::K3s, Id::MemoryCgroup));
        assert_eq!((finding.remedy.as_str(), finding.fix), ("restart this Pi", None));
        tree.put("proc/cmdline", "console=tty1 cgroup_memory=1 cgroup_enable=memory\n");
        let finding = one(of(&tree, Wanted::K3s, Id::MemoryCgroup));
        assert!(finding.remedy.contains("CONFIG_MEMCG"), "{finding:?}");
        // no Pi: nothing to be written
        let tree = Tree::debian();
        tree.put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n");
        let finding = one(of(&tree, Wanted::K3s, Id::MemoryCgroup));
        assert!(finding.remedy.contains("boot loader") && finding.fix.is_none(), "{finding:?}");
    }

    #[test]
    fn the_kernels_own_tables_decide_in_either_version() {
        let tree = Tree::hypriot();
        assert_eq!(of(&tree, Wanted::K3s, Id::MemoryCgroup), []);
        tree.put("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t0\n");
        assert_eq!(one(of(&tree, Wanted::K3s, Id::MemoryCgroup)).severity, Severity::Error);
        tree.remove("proc/cgroups");
        assert!(one(of(&tree, Wanted::K3s, Id::MemoryCgroup)).evidence.contains("no cgroups"));
        // version 2 counts, whatever the table of version 1 says
        let tree = Tree::debian();
        tree.put("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
        assert_eq!(of(&tree, Wanted::K3s, Id::MemoryCgroup), []);
    }

    #[test]
    fn of_two_boot_files_the_one_on_the_firmwares_partition_counts() {
        let tree = Tree::bullseye();
        tree.put("boot/firmware/cmdline.txt", "console=tty1\n");
        assert_eq!(boot_file(&tree.machine()), Some("boot/cmdline.txt"));
        tree.put("proc/mounts", "/dev/mmcblk0p1 /boot/firmware vfat rw 0 0\n");
        assert_eq!(boot_file(&tree.machine()), Some("boot/firmware/cmdline.txt"));
        assert_eq!(boot_file(&Tree::bookworm().machine()), Some("boot/firmware/cmdline.txt"));
    }

    #[test]
    fn version_1_of_the_cgroups_is_as_bad_as_the_version_that_is_wanted() {
        for (version, severity) in [
            ("v1.30.9", None),
            ("v1.31.0", Some(Severity::Warning)),
            ("v1.35.0+k3s1", Some(Severity::Error)),
            ("", Some(Severity::Note)),
        ] {
            let findings = Tree::hypriot().examine(&Answers::default(), &subject(Wanted::K3s, version));
            let found = found(&findings, Id::CgroupV1);
            assert_eq!(found.first().map(|finding| finding.severity), severity, "{version}");
        }
        assert_eq!(of(&Tree::debian(), Wanted::K3s, Id::CgroupV1), []);
    }

    #[test]
    fn containerd_and_kubelet_have_to_agree() {
        let tree = Tree::debian();
        assert_eq!(of(&tree, Wanted::Kubeadm, Id::CgroupDriver), []);
        tree.put("usr/bin/containerd", "");
        tree.put("etc/containerd/config.toml", "            SystemdCgroup = false\n");
        assert_eq!(one(of(&tree, Wanted::Kubeadm, Id::CgroupDriver)).severity, Severity::Warning);
        assert_eq!(of(&tree, Wanted::K3s, Id::CgroupDriver), []);
        tree.put("etc/containerd/config.toml", "            SystemdCgroup = true\n");
        assert_eq!(of(&tree, Wanted::Kubeadm, Id::CgroupDriver), []);
    }

    #[test]
    fn modules_are_loaded_loadable_or_missing() {
        let tree = Tree::bookworm();
        let severities =
            |tree: &Tree, engine| of(tree, engine, Id::KernelModule).iter().map(|f| f.severity).collect::<Vec<_>>();
        // overlay is built into nothing here, both are files
        assert_eq!(severities(&tree, Wanted::Kubeadm), [Severity::Error, Severity::Error]);
        assert_eq!(severities(&tree, Wanted::K3s), [Severity::Note, Severity::Note]);
        tree.put("proc/modules", "overlay 151552 0 - Live 0x0\nbr_netfilter 32768 0 - Live 0x0\n");
        assert_eq!(severities(&tree, Wanted::Kubeadm), [Severity::Warning, Severity::Warning]);
        assert_eq!(severities(&tree, Wanted::K3s), []);
        tree.put("etc/modules-load.d/k8s.conf", "overlay\nbr_netfilter\n");
        assert_eq!(severities(&tree, Wanted::Kubeadm), []);
        tree.put("proc/modules", "");
        tree.put("proc/sys/kernel/osrelease", "6.12.1-rpi\n");
        let upgraded = of(&tree, Wanted::K3s, Id::KernelModule);
        assert!(
            upgraded.iter().all(|f| f.severity == Severity::Error && f.remedy == "restart this Pi"),
            "{upgraded:?}"
        );
        tree.put("lib/modules/6.12.1-rpi/modules.builtin", "kernel/fs/overlayfs/overlay.ko\n");
        let lacking = one(of(&tree, Wanted::K3s, Id::KernelModule));
        // built in, without a list of it
        tree.put("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n");
        tree.put("proc/filesystems", "nodev\tproc\nnodev\toverlay\n");
        tree.put("lib/modules/6.12.1-rpi/modules.builtin", "");
        assert_eq!(severities(&tree, Wanted::Kubeadm), []);
        assert!(lacking.evidence.contains("no module br_netfilter"), "{lacking:?}");
    }

    #[test]
    fn settings_are_judged_by_the_engine() {
        let tree = Tree::bookworm();
        let findings = of(&tree, Wanted::Kubeadm, Id::Sysctl);
        assert_eq!(findings.len(), 2);
        assert!(findings[0].evidence.contains("net.ipv4.ip_forward is 0"), "{findings:?}");
        assert!(findings[1].evidence.contains("br_netfilter"), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.severity == Severity::Error));
        tree.put("proc/sys/net/ipv4/ip_forward", "1\n");
        tree.put("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n");
        assert_eq!(of(&tree, Wanted::Kubeadm, Id::Sysctl), []);
    }

    #[test]
    fn swap_is_an_error_for_kubeadm_and_tolerated_by_k3s() {
        let swaps =
            |path: &str| format!("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n{path}  file  102396  0  -2\n");
        let tree = Tree::debian();
        assert_eq!(of(&tree, Wanted::Kubeadm, Id::Swap), []);
        for (path, k3s) in [("/var/swap", Some(Severity::Warning)), ("/dev/zram0", None)] {
            tree.put("proc/swaps", &swaps(path));
            let finding = one(of(&tree, Wanted::Kubeadm, Id::Swap));
            assert_eq!(finding.severity, Severity::Error);
            assert_eq!(finding.fix, Some(Fix::SwapOff { active: vec![path.to_owned()] }));
            assert_eq!(of(&tree, Wanted::K3s, Id::Swap).first().map(|finding| finding.severity), k3s);
        }
        tree.remove("proc/swaps");
        for (line, comes) in [
            ("UUID=1 none swap sw 0 0\n", true),
            ("#UUID=1 none swap sw 0 0\n", false),
            ("UUID=1 none swap sw,noauto 0 0\n", false),
            ("UUID=1 /swap ext4 defaults 0 0\n", false),
        ] {
            tree.put("etc/fstab", line);
            assert_eq!(!of(&tree, Wanted::Kubeadm, Id::Swap).is_empty(), comes, "{line}");
        }
    }

    #[test]
    fn iptables_that_are_broken_missing_or_mixed_are_told() {
        let tree = Tree::debian();
        assert_eq!(of(&tree, Wanted::Kubeadm, Id::Iptables), []);
        let status = |version: &str| format!("Package: iptables\nStatus: install ok installed\nVersion: {version}\n");
        for (version, broken) in
            [("1.8.2-4", true), ("1.8.4-3", true), ("1.8.5-1", false), ("1.6.1-2", false), ("1:1.8.0", true)]
        {
            tree.put("var/lib/dpkg/status", &status(version));
            assert_eq!(!of(&tree, Wanted::K3s, Id::Iptables).is_empty(), broken, "{version}");
        }
        tree.put("var/lib/dpkg/status", &status("1.8.9-2"));
        tree.put("proc/net/ip_tables_names", "filter\nnat\n");
        assert!(one(of(&tree, Wanted::K3s, Id::Iptables)).evidence.contains("tables filter, nat"));
        tree.remove("usr/sbin/iptables");
        assert_eq!(of(&tree, Wanted::K3s, Id::Iptables), []);
        assert_eq!(one(of(&tree, Wanted::Kubeadm, Id::Iptables)).severity, Severity::Error);
    }

    #[test]
    fn firewalls_are_told() {
        let tree = Tree::debian();
        tree.put("etc/ufw/ufw.conf", "# comment\nENABLED=no\n");
        assert_eq!(of(&tree, Wanted::K3s, Id::Firewall), []);
        tree.put("etc/ufw/ufw.conf", "ENABLED=yes\n");
        tree.put("etc/systemd/system/sysinit.target.wants/nftables.service", "");
        tree.put("etc/systemd/system/multi-user.target.wants/firewalld.service", "");
        assert_eq!(of(&tree, Wanted::K3s, Id::Firewall).len(), 3);
    }

    #[test]
    fn the_limits_are_kubernetes_own() {
        assert!(CGROUP_V1_WARNS < CGROUP_V1_FAILS && CGROUP_V1_FAILS == Minor { major: 1, minor: 35 });
        assert_eq!(three("2:1.8.11-2"), Some((1, 8, 11)));
        assert_eq!(three("1.8"), Some((1, 8, 0)));
        assert_eq!(three("x"), None);
    }
}
