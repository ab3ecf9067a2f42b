//! Preflight: what keeps this Pi from being a good member of a cluster, with evidence and remedy. `beehive doctor` shows
//! it, and an engine asks before it makes or joins a cluster ([`before_join`]).
//!
//! Each check is a function of the machine's files ([`machine`]), of a few probes ([`probes`]) and of what the Pi is meant
//! to be ([`Subject`]); none changes anything. What is safe to mend is mended by [`fix`]. The table of all checks, with
//! thresholds and sources, is `docs/doctor.md`.
//!
//! | module | checks |
//! | --- | --- |
//! | [`kernel`] | memory cgroup, kernel command line, modules, sysctls, swap, iptables, firewall |
//! | [`identity`] | machine-id, host name, hosts, name servers, clock |
//! | [`lines`] | other users of the SHIM's lines |
//! | [`capacity`] | memory, disks, write latency, supply, processor against engine version |
//! | [`network`] | ports in use, API server, registry |
//! | [`residue`] | what an earlier cluster left, the programs that an engine needs |

pub mod capacity;
pub mod command;
pub mod fix;
pub mod identity;
pub mod kernel;
pub mod lines;
pub mod machine;
pub mod network;
pub mod probes;
pub mod residue;
#[cfg(test)]
mod trees;

use std::fmt;
use std::path::PathBuf;

use beehive_mqtt::node::Role;
use serde::Serialize;

pub use fix::Fix;
pub use machine::Machine;
pub use probes::{Probes, RealProbes};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; nothing has to be done.
    Note,
    /// It works now or in part, and will cause trouble.
    Warning,
    /// Making or joining a cluster is refused.
    Error,
}

impl Severity {
    /// The word for people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a finding is about. The words are a contract for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// The memory cgroup is off.
    MemoryCgroup,
    /// The boot file with the kernel's command line has more than its one line.
    CmdlineLines,
    /// Version 1 of the cgroups.
    CgroupV1,
    /// containerd and kubelet do not manage cgroups in the same way.
    CgroupDriver,
    /// A kernel module is missing.
    KernelModule,
    /// A kernel setting is not what a cluster needs.
    Sysctl,
    /// Swap is on.
    Swap,
    /// A version of iptables that is known to be broken, or none.
    Iptables,
    /// A firewall is on.
    Firewall,
    /// The machine-id is missing or no machine's own.
    MachineId,
    /// The card was first used in another Pi.
    CopiedCard,
    /// The host's name.
    HostName,
    /// `/etc/hosts`.
    Hosts,
    /// `/etc/resolv.conf`.
    NameServers,
    /// The clock is not synchronised.
    ClockUnsynchronised,
    /// The clock cannot be right.
    ClockWrong,
    /// Not enough memory.
    Memory,
    /// Not enough room on a disk.
    DiskRoom,
    /// Not enough inodes.
    InodeRoom,
    /// A file system that has to be written is read-only.
    ReadOnly,
    /// Writes take too long.
    WriteLatency,
    /// The supply's voltage is too low, or the processor is slowed down.
    Supply,
    /// The engine's version does not exist for this processor.
    Architecture,
    /// A port that the engine needs is taken.
    PortInUse,
    /// The API server does not answer.
    ApiServer,
    /// The registry does not answer.
    Registry,
    /// Something of an earlier cluster is there.
    Residue,
    /// A program that the engine needs is missing.
    Program,
    /// One of the SHIM's lines has another user.
    ShimLine,
    /// Something could not be checked.
    Unchecked,
}

impl Id {
    /// Every id, in the order in which findings are told.
    pub const ALL: [Self; 30] = [
        Self::MemoryCgroup,
        Self::CmdlineLines,
        Self::CgroupV1,
        Self::CgroupDriver,
        Self::KernelModule,
        Self::Sysctl,
        Self::Swap,
        Self::Iptables,
        Self::Firewall,
        Self::MachineId,
        Self::CopiedCard,
        Self::HostName,
        Self::Hosts,
        Self::NameServers,
        Self::ClockUnsynchronised,
        Self::ClockWrong,
        Self::Memory,
        Self::DiskRoom,
        Self::InodeRoom,
        Self::ReadOnly,
        Self::WriteLatency,
        Self::Supply,
        Self::Architecture,
        Self::PortInUse,
        Self::ApiServer,
        Self::Registry,
        Self::Residue,
        Self::Program,
        Self::ShimLine,
        Self::Unchecked,
    ];

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryCgroup => "memory-cgroup",
            Self::CmdlineLines => "cmdline-lines",
            Self::CgroupV1 => "cgroup-v1",
            Self::CgroupDriver => "cgroup-driver",
            Self::KernelModule => "kernel-module",
            Self::Sysctl => "sysctl",
            Self::Swap => "swap",
            Self::Iptables => "iptables",
            Self::Firewall => "firewall",
            Self::MachineId => "machine-id",
            Self::CopiedCard => "copied-card",
            Self::HostName => "host-name",
            Self::Hosts => "hosts",
            Self::NameServers => "name-servers",
            Self::ClockUnsynchronised => "clock-unsynchronised",
            Self::ClockWrong => "clock-wrong",
            Self::Memory => "memory",
            Self::DiskRoom => "disk-room",
            Self::InodeRoom => "inode-room",
            Self::ReadOnly => "read-only",
            Self::WriteLatency => "write-latency",
            Self::Supply => "supply",
            Self::Architecture => "architecture",
            Self::PortInUse => "port-in-use",
            Self::ApiServer => "api-server",
            Self::Registry => "registry",
            Self::Residue => "residue",
            Self::Program => "program",
            Self::ShimLine => "shim-line",
            Self::Unchecked => "unchecked",
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub id: Id,
    /// What was seen, and where.
    pub evidence: String,
    /// What to do.
    pub remedy: String,
    /// What `--fix` would do; none where it takes a person.
    #[serde(skip)]
    pub fix: Option<Fix>,
}

impl Finding {
    /// A finding that takes a person.
    pub fn new(severity: Severity, id: Id, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity, id, evidence: evidence.into(), remedy: remedy.into(), fix: None }
    }

    /// The same with what `--fix` does.
    #[must_use]
    pub fn fixed_by(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }
}

/// What the Pi is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// k3s.
    K3s,
    /// kubeadm.
    Kubeadm,
}

impl Wanted {
    /// The engine of that name in the configuration; none for one that needs nothing of the machine.
    pub fn of_kind(kind: &str) -> Option<Self> {
        [Self::K3s, Self::Kubeadm].into_iter().find(|wanted| wanted.as_str() == kind)
    }

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Kubeadm => "kubeadm",
        }
    }

    /// The names of its processes, as the kernel has them: 15 bytes at most.
    pub(crate) fn processes(self) -> &'static [&'static str] {
        match self {
            // k3s names itself after its part; the first is its launcher's name
            Self::K3s => &["k3s", "k3s-server", "k3s-agent"],
            Self::Kubeadm => &["kubelet", "kube-apiserver", "kube-controller", "kube-scheduler", "kube-proxy", "etcd"],
        }
    }
}

/// A Kubernetes version as far as it matters here: `1.26` of `v1.26.15+k3s1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minor {
    /// 1.
    pub major: u32,
    /// 26.
    pub minor: u32,
}

impl Minor {
    /// Reads it from a version; none if it is not one.
    pub fn parse(version: &str) -> Option<Self> {
        let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.');
        let major = numbers.next()?.parse().ok()?;
        let rest = numbers.next()?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self { major, minor: rest.get(..digits)?.parse().ok()? })
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Another machine that has to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Remote {
    /// Reads `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn parse(text: &str, port: u16) -> Result<Self, String> {
        let (host, given) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(format!("{text:?} is no host name and no address; write HOST or HOST:PORT"));
        }
        let port = match given {
            None => port,
            Some(given) => match given.parse() {
                Ok(port) if port != 0 => port,
                Ok(_) | Err(_) => return Err(format!("{given:?} is no port; a number from 1 to 65535 is")),
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The API server's port.
pub const API_PORT: u16 = 6443;

/// What the Pi is meant to be: what its files are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its part in the crew.
    pub role: Role,
    /// What it is to run.
    pub engine: Wanted,
    /// Which version of it; none where it is not known.
    pub version: Option<Minor>,
    /// Its name in the crew, where that is known.
    pub node: Option<String>,
    /// Where beehive keeps its state: on the card whose latency counts.
    pub state_dir: PathBuf,
    /// The API server that it is to join; only for a node.
    pub server: Option<Remote>,
    /// The registry that images come from; none if the engine's own is meant.
    pub registry: Option<Remote>,
}

impl Subject {
    /// A Pi for this part, with this engine. An empty version is one that is not known.
    pub fn new(role: Role, engine: Wanted, version: &str) -> Self {
        Self {
            role,
            engine,
            version: Minor::parse(version),
            node: None,
            state_dir: PathBuf::from("/var/lib/beehive"),
            server: None,
            registry: None,
        }
    }
}

/// Everything that a check looks at.
#[derive(Clone, Copy)]
pub struct Patient<'a> {
    /// The files.
    pub machine: &'a Machine,
    /// The probes.
    pub probes: &'a dyn Probes,
    /// What it is meant to be.
    pub subject: &'a Subject,
}

impl Patient<'_> {
    /// Whether a process of the wanted engine runs.
    fn runs_wanted_engine(&self) -> bool {
        let names = self.subject.engine.processes();
        self.machine.processes().iter().any(|(_, name)| names.contains(&name.as_str()))
    }
}

/// Looks at everything. Findings come worst first, and then in the order of [`Id`].
pub fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let checks: [fn(&Patient<'_>) -> Vec<Finding>; 6] =
        [kernel::check, identity::check, capacity::check, network::check, residue::check, lines::check];
    let mut findings: Vec<Finding> = checks.iter().flat_map(|check| check(patient)).collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.id.cmp(&b.id)));
    findings
}

/// Why a cluster is neither made nor joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// `preflight`.
    pub code: &'static str,
    /// The first error's words, and how many more there are.
    pub reason: String,
    /// Everything that was found.
    pub findings: Vec<Finding>,
}

/// What an engine asks before it makes a cluster on this Pi or joins one. It reads files, times some writes and, for a node,
/// looks whether the API server answers: some seconds at worst, so it belongs on a thread that may block. Whether the engine's
/// own program is installed is not asked: it may come from the card with the same step, and the engine has looked.
///
/// # Errors
/// If something was found that lets the work fail; nothing was changed by then.
pub fn before_join(subject: &Subject) -> Result<Vec<Finding>, Refusal> {
    let machine = Machine::here();
    let mut findings = examine(&Patient { machine: &machine, probes: &RealProbes, subject });
    findings.retain(|finding| finding.id != Id::Program);
    judge(findings)
}

/// Errors refuse; the rest is handed on.
pub(crate) fn judge(findings: Vec<Finding>) -> Result<Vec<Finding>, Refusal> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let Some(first) = findings.first().filter(|finding| finding.severity == Severity::Error) else {
        return Ok(findings);
    };
    let more = match errors - 1 {
        0 => String::new(),
        more => format!(" (and {more} more; `beehive doctor` on this Pi shows all)"),
    };
    let reason = format!("{}: {}; {}{more}", first.id, first.evidence, first.remedy);
    Err(Refusal { code: "preflight", reason, findings })
}

/// The warnings among the findings, in one line for the detail of an outcome; empty if there are none.
pub fn warnings(findings: &[Finding]) -> String {
    let warned = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    warned.map(|finding| format!("{}: {}", finding.id, finding.evidence)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::trees::{Answers, Tree};
    use super::*;

    #[test]
    fn ids_are_in_order_and_their_words_differ() {
        let mut words: Vec<&str> = Id::ALL.iter().map(|id| id.as_str()).collect();
        assert!(Id::ALL.is_sorted());
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Id::ALL.len());
    }

    #[test]
    fn the_documents_table_has_each_id() {
        let document = include_str!("../../docs/doctor.md");
        for id in Id::ALL {
            assert!(document.contains(&format!("| `{id}` |")), "{id} is missing in docs/doctor.md");
        }
    }

    #[test]
    fn versions_are_read_and_anything_else_is_none() {
        for (text, version) in [
            ("v1.26.15+k3s1", Some((1, 26))),
            ("1.31", Some((1, 31))),
            ("1.20.2-00", Some((1, 20))),
            ("", None),
            ("latest", None),
            ("v1", None),
            ("v1.x", None),
        ] {
            assert_eq!(Minor::parse(text).map(|v| (v.major, v.minor)), version, "{text:?}");
        }
    }

    #[test]
    fn other_machines_are_read_or_refused() {
        for (text, shown) in [
            ("master", "master:6443"),
            ("master:1", "master:1"),
            ("[fe80::1]:7", "[fe80::1]:7"),
            ("fe80::1", "[fe80::1]:6443"),
        ] {
            assert_eq!(Remote::parse(text, API_PORT).unwrap().to_string(), shown);
        }
        for text in ["", ":1", "a b", "a:0", "a:b", "https://a"] {
            assert!(Remote::parse(text, API_PORT).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pi_that_was_made_ready_has_no_finding_with_either_engine() {
        for (tree, role) in [(Tree::bookworm(), Role::Master), (Tree::bullseye(), Role::Node)] {
            for engine in [Wanted::K3s, Wanted::Kubeadm] {
                let ready = tree.clone().made_ready();
                let version = if tree.is_32_bit() { "v1.26.15" } else { "v1.34.1" };
                let mut subject = Subject::new(role, engine, version);
                subject.node = Some("bee42-crew-01-001".to_owned());
                subject.server = Some(Remote { host: "192.168.1.10".to_owned(), port: API_PORT });
                let findings = ready.examine(&Answers::default(), &subject);
                assert_eq!(findings, [], "{role:?} {engine:?}");
                assert_eq!(judge(findings), Ok(vec![]));
            }
        }
    }

    #[test]
    fn errors_refuse_with_the_first_ones_words_and_warnings_are_handed_on() {
        let warning = Finding::new(Severity::Warning, Id::Supply, "5 V are low", "a better supply");
        assert_eq!(judge(vec![warning.clone()]).unwrap(), std::slice::from_ref(&warning));
        assert_eq!(warnings(std::slice::from_ref(&warning)), "supply: 5 V are low");
        let error = Finding::new(Severity::Error, Id::Swap, "swap is on", "swap off");
        let refusal = judge(vec![error.clone(), error.clone(), warning]).unwrap_err();
        assert_eq!(refusal.code, "preflight");
        assert!(refusal.reason.starts_with("swap: swap is on; swap off (and 1 more"), "{refusal}");
        assert_eq!(refusal.findings.len(), 3);
        let refusal = judge(vec![error]).unwrap_err();
        assert_eq!(refusal.reason, "swap: swap is on; swap off", "one is enough");
    }

    #[test]
    fn images_as_they_are_flashed_are_told_what_they_lack() {
        let lacks = |tree: &Tree, engine, version| {
            let subject = Subject::new(Role::Node, engine, version);
            let findings = tree.examine(&Answers::default(), &subject);
            let mut lacks: Vec<_> = findings.iter().map(|finding| (finding.severity, finding.id.as_str())).collect();
            lacks.dedup();
            lacks
        };
        use Severity::{Error, Note, Warning};
        assert_eq!(
            lacks(&Tree::bookworm(), Wanted::K3s, "v1.31.4+k3s1"),
            [
                (Error, "memory-cgroup"),
                (Warning, "swap"),
                (Warning, "host-name"),
                (Note, "kernel-module"),
                (Note, "sysctl")
            ]
        );
        assert_eq!(
            lacks(&Tree::bullseye(), Wanted::Kubeadm, "v1.27.1"),
            [
                (Error, "memory-cgroup"),
                (Error, "kernel-module"),
                (Error, "sysctl"),
                (Error, "swap"),
                (Error, "iptables"),
                (Error, "architecture"),
                (Error, "program"),
                (Warning, "host-name")
            ]
        );
        assert_eq!(
            lacks(&Tree::hypriot(), Wanted::K3s, "v1.26.15+k3s1"),
            [
                (Error, "machine-id"),
                (Warning, "iptables"),
                (Warning, "host-name"),
                (Note, "kernel-module"),
                (Note, "sysctl")
            ]
        );
        assert_eq!(
            lacks(&Tree::debian(), Wanted::K3s, "v1.31.4+k3s1"),
            [(Warning, "host-name"), (Note, "kernel-module"), (Note, "sysctl")]
        );
    }
}
