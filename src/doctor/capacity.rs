//! Whether this Pi is large, fast and well enough fed, and whether its processor can run the engine at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use beehive_mqtt::node::Role;

use super::machine::Processor;
use super::probes::Writable;
use super::{Finding, Id, Minor, Patient, Severity, Wanted};
use crate::hal::throttled::Throttled;

const MIB: u64 = 1024 * 1024;

/// What is left of a Pi's nominal 2 GB, 1 GB and 512 MB when firmware, screen and kernel have theirs: a Pi 4 with 2 GB tells
/// some 1,850 MiB, a 3B+ some 910, a Zero 2 W some 420. 1,700 MB is kubeadm's own limit for a control plane
/// (`ControlPlaneMem`); 2 GB and 512 MB are docs.k3s.io's, "Requirements".
const MEMORY_2_GB_MIB: u64 = 1_700;
const MEMORY_1_GB_MIB: u64 = 850;
const MEMORY_512_MB_MIB: u64 = 400;

/// An engine with its images unpacked has some 700 MB on the card; less free than this ends in the middle of it.
const ROOM_LEAST_MIB: u64 = 1_024;
/// Less is filled by a few images of the operator's.
const ROOM_GOOD_MIB: u64 = 3_072;
/// A kubelet evicts pods at less than 10 % (5 % in k3s) of the disk and 5 % of the inodes (kubernetes.io, "Node-pressure
/// Eviction"; docs.k3s.io).
const EVICTION_DISK_PERCENT: u64 = 10;
const EVICTION_INODES_PERCENT: u64 = 5;

/// The last version of which upstream has servers, and so kubeadm and kubelet, for 32-bit ARM (kubernetes PR 115742).
const LAST_KUBEADM_ON_ARM: Minor = Minor { major: 1, minor: 26 };

/// Controllers give their lease up when they cannot renew it in 10 s (`--leader-elect-renew-deadline`), and then end, over
/// and over (k3s issue 1850). One write that takes half of it is too close; a card of k3s issue 2644 took 9 s.
const WRITE_WORST_SERVER: Duration = Duration::from_secs(5);
/// Each change of an object is one or two such writes; at this a control plane does ten a second.
const WRITE_MEDIAN_SERVER: Duration = Duration::from_millis(50);
/// A worker writes little that somebody waits for, but images are unpacked by the hundred files.
const WRITE_WORST_NODE: Duration = Duration::from_secs(2);

/// All checks of this module.
pub fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = memory(patient).into_iter().collect();
    findings.extend(disks(patient));
    findings.extend(latency(patient));
    findings.extend(supply(patient));
    findings.extend(architecture(patient));
    findings
}

fn memory(patient: &Patient<'_>) -> Option<Finding> {
    let text = patient.machine.text("proc/meminfo").unwrap_or_default();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let Some(kib) = total else {
        return Some(Finding::new(
            Severity::Warning,
            Id::Unchecked,
            "the memory is not known: /proc/meminfo has no MemTotal",
            "look at it by hand (free -m)",
        ));
    };
    let mib = kib / 1024;
    let has = format!("this Pi has {mib} MiB");
    let (severity, evidence, remedy) = match (patient.subject.role, patient.subject.engine) {
        (Role::Master, Wanted::K3s) if mib < MEMORY_1_GB_MIB => (
            Severity::Error,
            format!("{has}; a k3s server needs 2 GB, or 1 GB without add-ons"),
            "make another Pi the master",
        ),
        (Role::Master, Wanted::K3s) if mib < MEMORY_2_GB_MIB => (
            Severity::Warning,
            format!("{has}; a k3s server needs 2 GB, or does with 1 GB without add-ons"),
            "leave traefik, servicelb and metrics-server out (disable in /etc/rancher/k3s/config.yaml), or make another Pi the master",
        ),
        (Role::Master, Wanted::Kubeadm) if mib < MEMORY_2_GB_MIB => (
            Severity::Error,
            format!("{has}; kubeadm wants {MEMORY_2_GB_MIB} MB for a control plane"),
            "make another Pi the master, or take k3s",
        ),
        (Role::Node, Wanted::K3s) if mib < MEMORY_512_MB_MIB => {
            (Severity::Error, format!("{has}; a k3s agent needs 512 MB"), "leave this Pi out of the cluster")
        }
        (Role::Node, Wanted::Kubeadm) if mib < MEMORY_1_GB_MIB => (
            Severity::Warning,
            format!("{has}; kubelet, kube-proxy and the container runtime leave little of it"),
            "take k3s, or run little on this Pi",
        ),
        (Role::Master | Role::Node, Wanted::K3s | Wanted::Kubeadm) => return None,
    };
    Some(Finding::new(severity, Id::Memory, evidence, remedy))
}

/// The nearest folder on the way to `path` that is there: where it will be made.
fn nearest(patient: &Patient<'_>, path: &str) -> (String, PathBuf) {
    let mut shown = Path::new(path);
    loop {
        let real = patient.machine.path(&shown.to_string_lossy());
        match shown.parent() {
            Some(parent) if !real.is_dir() => shown = parent,
            Some(_) | None => return (shown.display().to_string(), real),
        }
    }
}

fn disks(patient: &Patient<'_>) -> Vec<Finding> {
    let folders: &[&str] = match patient.subject.engine {
        Wanted::K3s => &["/var/lib/rancher/k3s", "/var/lib/kubelet"],
        Wanted::Kubeadm => &["/var/lib/kubelet", "/var/lib/containerd", "/etc/kubernetes"],
    };
    let mut findings: Vec<Finding> = Vec::new();
    let mut seen = Vec::new();
    for folder in folders {
        let (shown, real) = nearest(patient, folder);
        if seen.contains(&real) {
            continue;
        }
        seen.push(real.clone());
        let room = match patient.probes.room(&real) {
            Ok(room) => room,
            Err(error) => {
                findings.push(Finding::new(
                    Severity::Warning,
                    Id::Unchecked,
                    format!("the room in {shown} is not known: {error}"),
                    "look at it by hand (df -h)",
                ));
                continue;
            }
        };
        let mut tell = |severity, id, evidence: String, remedy: &str| {
            // two folders of one disk say the same
            let told = findings.iter().any(|finding: &Finding| finding.id == id && finding.severity == severity);
            if !told {
                findings.push(Finding::new(severity, id, evidence, remedy));
            }
        };
        if room.access == Writable::No {
            let remedy =
                "mount it read-write; a card that became read-only by itself is damaged: fsck, or another card";
            tell(Severity::Error, Id::ReadOnly, format!("{shown} is mounted read-only"), remedy);
            continue;
        }
        let free_mib = room.free_bytes / MIB;
        let percent = |free: u64, all: u64| free.saturating_mul(100).checked_div(all).unwrap_or(100);
        let disk = percent(room.free_bytes, room.bytes);
        let remedy = "make room (apt-get clean, journalctl --vacuum-size=50M, old images), or take a larger card";
        if free_mib < ROOM_LEAST_MIB {
            let evidence =
                format!("{free_mib} MiB are free in {shown}; an engine with its images takes {ROOM_LEAST_MIB}");
            tell(Severity::Error, Id::DiskRoom, evidence, remedy);
        } else if free_mib < ROOM_GOOD_MIB || disk < EVICTION_DISK_PERCENT {
            let evidence = format!(
                "{free_mib} MiB ({disk} %) are free in {shown}; below {EVICTION_DISK_PERCENT} % pods are evicted"
            );
            tell(Severity::Warning, Id::DiskRoom, evidence, remedy);
        }
        let inodes = percent(room.free_inodes, room.inodes);
        if inodes < EVICTION_INODES_PERCENT {
            let evidence = format!(
                "{} of {} inodes ({inodes} %) are free in {shown}; below {EVICTION_INODES_PERCENT} % pods are evicted",
                room.free_inodes, room.inodes
            );
            tell(
                Severity::Error,
                Id::InodeRoom,
                evidence,
                "remove what consists of many small files, or make the file system anew with more inodes",
            );
        }
    }
    findings
}

fn latency(patient: &Patient<'_>) -> Option<Finding> {
    let (shown, real) = nearest(patient, &patient.subject.state_dir.to_string_lossy());
    let latency = match patient.probes.write_latency(&real) {
        Ok(latency) => latency,
        Err(error) => {
            return Some(Finding::new(
                Severity::Note,
                Id::Unchecked,
                format!("how fast {shown} is written is not known: {error}"),
                "run this as root",
            ));
        }
    };
    let numbers = format!(
        "{} synchronous writes of 4 KiB in {shown}: median {} ms, longest {} ms",
        latency.writes,
        latency.median.as_millis(),
        latency.worst.as_millis()
    );
    let remedy = "take a faster card (A1 or A2), or a USB disk, and look whether the supply is good";
    let (severity, limit) = match patient.subject.role {
        Role::Master if latency.worst >= WRITE_WORST_SERVER => (
            Severity::Error,
            format!(
                "a control plane loses its leases when one takes 10 s, and {} s is too close",
                WRITE_WORST_SERVER.as_secs()
            ),
        ),
        Role::Master if latency.median >= WRITE_MEDIAN_SERVER => {
            (Severity::Warning, format!("a control plane wants less than {} ms", WRITE_MEDIAN_SERVER.as_millis()))
        }
        Role::Master | Role::Node if latency.worst >= WRITE_WORST_NODE => {
            (Severity::Warning, format!("more than {} s is a card that is worn or slow", WRITE_WORST_NODE.as_secs()))
        }
        Role::Master | Role::Node => return None,
    };
    Some(Finding::new(severity, Id::WriteLatency, format!("{numbers}; {limit}"), remedy))
}

fn supply(patient: &Patient<'_>) -> Option<Finding> {
    let told = Throttled::below(&patient.machine.path("")).read()?;
    let seen: Vec<&str> = [
        (told.under_voltage, "the 5 V are too low"),
        (told.throttled, "the processor is throttled"),
        (told.frequency_capped, "its clock is capped"),
        (told.soft_temperature_limit, "it is too hot"),
    ]
    .into_iter()
    .filter_map(|(flag, words)| (flag == Some(true)).then_some(words))
    .collect();
    if seen.is_empty() {
        return None;
    }
    Some(Finding::new(
        Severity::Warning,
        Id::Supply,
        format!("the firmware says: {}", seen.join(", ")),
        "use a supply and a cable that are strong enough (5.1 V, 2.5 A for a 3B+, 3 A for a 4), and cool the Pi; a card is damaged by writes at low voltage",
    ))
}

fn architecture(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tell = |severity, id, evidence: String, remedy: &str| {
        findings.push(Finding::new(severity, id, evidence, remedy));
    };
    let kernel = patient.probes.kernel_machine();
    let programs = patient.machine.processor();
    let wanted = patient.subject.version;
    let installed = || patient.machine.package("kubeadm").and_then(|version| Minor::parse(&version));
    if kernel == "armv6l" {
        let evidence =
            "this Pi (armv6l: a 1 or a Zero) runs neither k3s nor kubeadm; both want armv7 at least".to_owned();
        tell(Severity::Error, Id::Architecture, evidence, "take a Pi 2 or newer");
        return findings;
    }
    match (patient.subject.engine, programs) {
        (_, Some(Processor::Aarch64 | Processor::X86_64)) | (Wanted::K3s, Some(Processor::Arm)) => {}
        (_, None) => {
            let evidence = format!("the processor of this system's programs is not known (its kernel says {kernel})");
            tell(Severity::Note, Id::Unchecked, evidence, "look at it by hand (dpkg --print-architecture)");
        }
        (engine, Some(Processor::Other)) => {
            let evidence = format!(
                "this system's programs are for another processor ({kernel}) than {} is made for",
                engine.as_str()
            );
            tell(Severity::Error, Id::Architecture, evidence, "take a Pi 2 or newer, or a PC with 64 bits");
        }
        (Wanted::Kubeadm, Some(Processor::Arm)) => match wanted.or_else(installed) {
            Some(version) if version > LAST_KUBEADM_ON_ARM => {
                let evidence = format!(
                    "Kubernetes {version} is wanted with kubeadm on 32-bit ARM, and upstream's servers for it end at {LAST_KUBEADM_ON_ARM}"
                );
                let remedy = if kernel == "aarch64" {
                    "put the 64-bit system onto this Pi (its kernel is 64-bit already), take version 1.26, or take k3s"
                } else {
                    "take version 1.26, take k3s, or the 64-bit system where the Pi has it (2 v1.2, 3, 4, 5)"
                };
                tell(Severity::Error, Id::Architecture, evidence, remedy);
            }
            Some(_) => {}
            None => {
                let evidence = format!("no version is named, and kubeadm on 32-bit ARM ends at {LAST_KUBEADM_ON_ARM}");
                tell(Severity::Warning, Id::Architecture, evidence, "name a version up to 1.26, or take k3s");
            }
        },
    }
    if (kernel.as_str(), programs) == ("aarch64", Some(Processor::Arm)) {
        let evidence = "the kernel is 64-bit and the programs are 32-bit: k3s' installer takes the 64-bit k3s, Debian's packages are 32-bit".to_owned();
        tell(
            Severity::Note,
            Id::Architecture,
            evidence,
            "nothing has to be done; arm_64bit=0 in config.txt, or the 64-bit system, makes both alike",
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Subject;
    use super::super::probes::{Latency, Room};
    use super::super::trees::{Answers, Tree, found, one};
    use super::*;

    fn of(answers: &Answers, role: Role, engine: Wanted, id: Id) -> Vec<Finding> {
        found(&Tree::debian().examine(answers, &Subject::new(role, engine, "v1.31.0")), id)
    }

    #[test]
    fn memory_is_judged_by_role_and_engine() {
        let tree = Tree::debian();
        use Severity::{Error, Warning};
        for (kib, role, engine, severity) in [
            (1_900_000, Role::Master, Wanted::K3s, None),
            (948_304, Role::Master, Wanted::K3s, Some(Warning)),
            (437_000, Role::Master, Wanted::K3s, Some(Error)),
            (948_304, Role::Master, Wanted::Kubeadm, Some(Error)),
            (1_900_000, Role::Master, Wanted::Kubeadm, None),
            (437_000, Role::Node, Wanted::K3s, None),
            (200_000, Role::Node, Wanted::K3s, Some(Error)),
            (437_000, Role::Node, Wanted::Kubeadm, Some(Warning)),
            (948_304, Role::Node, Wanted::Kubeadm, None),
        ] {
            tree.put("proc/meminfo", &format!("MemTotal:        {kib} kB\nMemFree: 1 kB\n"));
            let findings = tree.examine(&Answers::default(), &Subject::new(role, engine, "v1.31.0"));
            let memory = found(&findings, Id::Memory);
            assert_eq!(memory.first().map(|finding| finding.severity), severity, "{kib} {role:?} {engine:?}");
        }
        tree.put("proc/meminfo", "nonsense\n");
        let findings = tree.examine(&Answers::default(), &Subject::new(Role::Node, Wanted::K3s, ""));
        assert!(one(found(&findings, Id::Unchecked)).evidence.contains("MemTotal"));
    }

    #[test]
    fn room_and_inodes_have_limits_and_a_read_only_disk_is_told() {
        let good = Answers::default().room.unwrap();
        let with = |change: &dyn Fn(&mut Room)| {
            let mut room = good;
            change(&mut room);
            Answers { room: Some(room), ..Answers::default() }
        };
        let severity =
            |answers: &Answers, id| of(answers, Role::Node, Wanted::K3s, id).first().map(|finding| finding.severity);
        assert_eq!(severity(&Answers::default(), Id::DiskRoom), None);
        assert_eq!(severity(&with(&|room| room.free_bytes = 1023 * MIB), Id::DiskRoom), Some(Severity::Error));
        assert_eq!(severity(&with(&|room| room.free_bytes = 2000 * MIB), Id::DiskRoom), Some(Severity::Warning));
        // plenty, and yet little of a large disk
        let large = with(&|room| (room.free_bytes, room.bytes) = (5_000 * MIB, 500_000 * MIB));
        assert_eq!(severity(&large, Id::DiskRoom), Some(Severity::Warning));
        assert_eq!(severity(&with(&|room| room.free_inodes = room.inodes / 25), Id::InodeRoom), Some(Severity::Error));
        // vfat and btrfs count none
        assert_eq!(severity(&with(&|room| (room.free_inodes, room.inodes) = (0, 0)), Id::InodeRoom), None);
        assert_eq!(severity(&with(&|room| room.access = Writable::No), Id::ReadOnly), Some(Severity::Error));
        let unknown = Answers { room: None, ..Answers::default() };
        assert!(!of(&unknown, Role::Node, Wanted::K3s, Id::Unchecked).is_empty());
    }

    #[test]
    fn slow_writes_are_told_with_their_numbers() {
        let ms = Duration::from_millis;
        for (role, median, worst, severity) in [
            (Role::Master, ms(12), ms(90), None),
            (Role::Master, ms(50), ms(90), Some(Severity::Warning)),
            (Role::Master, ms(12), ms(2_000), Some(Severity::Warning)),
            (Role::Master, ms(12), ms(9_000), Some(Severity::Error)),
            (Role::Node, ms(200), ms(900), None),
            (Role::Node, ms(200), ms(9_000), Some(Severity::Warning)),
        ] {
            let latency = Some(Latency { writes: 24, median, worst });
            let found = of(&Answers { latency, ..Answers::default() }, role, Wanted::K3s, Id::WriteLatency);
            assert_eq!(found.first().map(|finding| finding.severity), severity, "{role:?} {median:?} {worst:?}");
            if let Some(finding) = found.first() {
                let numbers = format!("median {} ms, longest {} ms", median.as_millis(), worst.as_millis());
                assert!(finding.evidence.contains(&numbers), "{finding:?}");
            }
        }
        let unknown = Answers { latency: None, ..Answers::default() };
        assert_eq!(one(of(&unknown, Role::Node, Wanted::K3s, Id::Unchecked)).severity, Severity::Note);
    }

    #[test]
    fn a_poor_supply_is_told() {
        let tree = Tree::bookworm();
        let of = |tree: &Tree| {
            found(&tree.examine(&Answers::default(), &Subject::new(Role::Node, Wanted::K3s, "")), Id::Supply)
        };
        assert_eq!(of(&tree), []);
        tree.put("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
        assert!(one(of(&tree)).evidence.contains("5 V are too low, the processor is throttled"));
    }

    #[test]
    fn an_engine_has_to_exist_for_the_processor() {
        let judge = |tree: &Tree, kernel: &str, engine, version| {
            let answers = Answers { kernel: kernel.to_owned(), ..Answers::default() };
            let findings = tree.examine(&answers, &Subject::new(Role::Node, engine, version));
            found(&findings, Id::Architecture).iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        use Severity::{Error, Note, Warning};
        let arm = Tree::bullseye();
        assert_eq!(judge(&arm, "armv7l", Wanted::Kubeadm, "v1.26.15"), []);
        assert_eq!(judge(&arm, "armv7l", Wanted::Kubeadm, "v1.27.0"), [Error]);
        assert_eq!(judge(&arm, "armv7l", Wanted::Kubeadm, ""), [Warning]);
        assert_eq!(judge(&arm, "armv7l", Wanted::K3s, "v1.33.0+k3s1"), []);
        assert_eq!(judge(&arm, "aarch64", Wanted::K3s, "v1.33.0+k3s1"), [Note]);
        assert_eq!(judge(&arm, "aarch64", Wanted::Kubeadm, "v1.27.0"), [Error, Note]);
        assert_eq!(judge(&arm, "armv6l", Wanted::K3s, "v1.33.0+k3s1"), [Error]);
        let kubeadm = "Package: kubeadm\nStatus: install ok installed\nVersion: 1.28.0-1.1\n";
        arm.put("var/lib/dpkg/status", kubeadm);
        assert_eq!(judge(&arm, "armv7l", Wanted::Kubeadm, ""), [Error]);
        assert_eq!(judge(&Tree::bookworm(), "aarch64", Wanted::Kubeadm, "v1.34.0"), []);
        let other = Tree::debian();
        other.put("bin/sh", "#!/nothing");
        assert_eq!(judge(&other, "riscv64", Wanted::K3s, ""), []);
        let mut riscv = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0".to_vec();
        riscv.resize(64, 0);
        other.put_bytes("bin/sh", &riscv);
        assert_eq!(judge(&other, "riscv64", Wanted::K3s, ""), [Error]);
    }
}
