//! Who this Pi is to the others, and whether it knows the time: machine-id, names, name servers, clock.

use std::net::IpAddr;

use beehive_mqtt::node::Role;

use super::probes::Synchronised;
use super::{Finding, Id, Machine, Patient, Severity, Wanted};

/// Names that an image has before anybody gives it one: the second such Pi is a duplicate.
const IMAGE_NAMES: [&str; 7] =
    ["raspberrypi", "black-pearl", "localhost", "localhost.localdomain", "debian", "raspberry", "rpi"];

/// Before the year in which this was built no clock can be right: 2026-01-01.
const BUILD_YEAR_UNIX_SECONDS: u64 = 1_767_225_600;

/// All checks of this module.
pub fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = machine_id(patient.machine).into_iter().collect::<Vec<_>>();
    findings.extend(copied_card(patient.machine));
    findings.extend(host_name(patient));
    findings.extend(hosts(patient));
    findings.extend(name_servers(patient));
    findings.extend(clock(patient));
    findings
}

/// The machine-id is what tells Kubernetes' nodes apart beside their names, and where DHCP leases and journals hang on
/// (machine-id(5)). What two Pis of a crew have in common no Pi can see alone.
fn machine_id(machine: &Machine) -> Option<Finding> {
    let remedy = "make a new one: rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; and restart";
    let found = machine.word("etc/machine-id");
    let evidence = match found.as_deref() {
        None if machine.has("etc/machine-id") => "/etc/machine-id is empty".to_owned(),
        None => "/etc/machine-id is not there".to_owned(),
        Some("uninitialized") => {
            "/etc/machine-id says \"uninitialized\": the first start of this card has not ended".to_owned()
        }
        Some(id) if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            "/etc/machine-id does not have 32 hexadecimal digits".to_owned()
        }
        Some(id) if id.bytes().all(|byte| Some(&byte) == id.as_bytes().first()) => {
            "/etc/machine-id is one digit over and over: a placeholder of an image".to_owned()
        }
        Some(id) => {
            // the bus has its own copy on old systems; a card that was copied and half mended shows it
            machine.word("var/lib/dbus/machine-id").filter(|bus| bus != id)?;
            return Some(Finding::new(
                Severity::Warning,
                Id::MachineId,
                "/etc/machine-id and /var/lib/dbus/machine-id differ: this card was copied, and only one of them made anew",
                "rm /var/lib/dbus/machine-id; ln -s /etc/machine-id /var/lib/dbus/machine-id",
            ));
        }
    };
    Some(Finding::new(Severity::Error, Id::MachineId, evidence, remedy))
}

/// `beehive-card.service` has made machine-id and host keys anew by then; what is left is somebody's decision.
fn copied_card(machine: &Machine) -> Option<Finding> {
    let text = machine.text(crate::enrol::machine::RECORD)?;
    let record = toml::from_str::<crate::enrol::machine::Record>(&text).ok()?;
    let before = record.copied_from?;
    Some(Finding::new(
        Severity::Error,
        Id::CopiedCard,
        format!(
            "this card was first used in the Pi {before}, and is in the Pi {} now; that node's keys are set aside",
            record.serial
        ),
        "if it is a copy, prepare a card of its own for this Pi (beehive image prepare); if it was moved on purpose and the other \
         Pi is out of use: beehive enrol --keep-keys",
    ))
}

/// Whether a name can be a Node's: RFC 1123, as Kubernetes wants it.
fn is_node_name(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253 && name.chars().all(inside) && name.starts_with(edge) && name.ends_with(edge)
}

fn running_name(machine: &Machine) -> Option<String> {
    machine.word("proc/sys/kernel/hostname").or_else(|| machine.word("etc/hostname"))
}

fn host_name(patient: &Patient<'_>) -> Vec<Finding> {
    let machine = patient.machine;
    let mut findings = Vec::new();
    let mut tell = |severity, evidence: String, remedy: String| {
        findings.push(Finding::new(severity, Id::HostName, evidence, remedy));
    };
    let wanted = patient.subject.node.as_deref();
    let set = |name: Option<&str>| format!("hostnamectl set-hostname {}", name.unwrap_or("NAME"));
    let Some(name) = running_name(machine) else {
        tell(Severity::Error, "this host has no name".to_owned(), set(wanted));
        return findings;
    };
    match wanted {
        Some(wanted) if wanted != name => tell(
            Severity::Error,
            format!(
                "this host is called {name:?}, and beehive's configuration calls this node {wanted:?}; the engine takes the host's name"
            ),
            format!("{}, and restart; or correct node in the configuration", set(Some(wanted))),
        ),
        Some(_) => {}
        None if IMAGE_NAMES.contains(&name.as_str()) => tell(
            Severity::Warning,
            format!("this host is called {name:?}, as every fresh card is; the second one in a crew is refused"),
            format!("{}, another for each Pi", set(None)),
        ),
        None => {}
    }
    if !is_node_name(&name) {
        tell(
            Severity::Error,
            format!(
                "this host is called {name:?}, which cannot be a Node's name: only a-z, 0-9, '-' and '.' may be in it"
            ),
            set(wanted),
        );
    }
    if let Some(file) = machine.word("etc/hostname").filter(|file| *file != name) {
        tell(
            Severity::Warning,
            format!("this host is called {name:?} now, and will be {file:?} after the next start (/etc/hostname)"),
            set(wanted.or(Some(&name))),
        );
    }
    findings
}

/// The addresses of a name in `/etc/hosts`.
fn addresses_of(machine: &Machine, name: &str) -> Vec<IpAddr> {
    let text = machine.text("etc/hosts").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word == name).then_some(address)
        })
        .collect()
}

fn hosts(patient: &Patient<'_>) -> Vec<Finding> {
    let machine = patient.machine;
    let mut findings = Vec::new();
    if let Some(name) = running_name(machine).filter(|name| addresses_of(machine, name).is_empty()) {
        findings.push(Finding::new(
            Severity::Warning,
            Id::Hosts,
            format!("{name:?} is not in /etc/hosts: whether this Pi knows its own name hangs on the network"),
            format!("add a line 127.0.1.1 {name} to /etc/hosts"),
        ));
    }
    if let (Role::Node, Some(server)) = (patient.subject.role, &patient.subject.server) {
        let own = addresses_of(machine, &server.host).into_iter().find(IpAddr::is_loopback);
        if let Some(address) = own {
            findings.push(Finding::new(
                Severity::Error,
                Id::Hosts,
                format!("/etc/hosts says that the API server {} is this Pi itself ({address})", server.host),
                "take that line out, or give the server its own address there",
            ));
        }
    }
    findings
}

/// What a pod's name server is made from: a loopback address in it leads each query back to itself (CoreDNS' plug-in `loop`,
/// "Troubleshooting Loops In Kubernetes Clusters").
fn name_servers(patient: &Patient<'_>) -> Option<Finding> {
    let machine = patient.machine;
    let servers = |path: &str| -> Option<Vec<String>> {
        let text = machine.text(path)?;
        let server = |line: &str| Some(line.trim().strip_prefix("nameserver")?.trim().to_owned());
        Some(text.lines().filter_map(server).collect())
    };
    let loopback = |server: &String| server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let found = servers("etc/resolv.conf").unwrap_or_default();
    // a link into /run leads out of a tree, and nowhere before systemd-resolved runs
    if found.is_empty() {
        return Some(Finding::new(
            Severity::Warning,
            Id::NameServers,
            "/etc/resolv.conf names no name server: pods will know no names outside the cluster",
            "let DHCP or the network's configuration name one",
        ));
    }
    let behind = servers("run/systemd/resolve/resolv.conf").unwrap_or_default();
    // kubeadm and k3s take systemd-resolved's own file where the other names loopback alone
    let solved = !behind.is_empty() && !behind.iter().all(loopback);
    if !found.iter().any(loopback) || solved {
        return None;
    }
    let named = found.join(", ");
    let then = match patient.subject.engine {
        Wanted::K3s => "k3s gives pods 8.8.8.8 instead, which an offline crew does not reach",
        Wanted::Kubeadm => "CoreDNS asks itself and ends at once, over and over",
    };
    Some(Finding::new(
        Severity::Warning,
        Id::NameServers,
        format!("/etc/resolv.conf names this Pi itself ({named}): {then}"),
        "name a server that pods reach: resolvConf in the kubelet's configuration (k3s: --resolv-conf) with a file of its own",
    ))
}

fn clock(patient: &Patient<'_>) -> Vec<Finding> {
    let machine = patient.machine;
    let now = patient.probes.unix_seconds();
    if now < BUILD_YEAR_UNIX_SECONDS {
        return vec![Finding::new(
            Severity::Error,
            Id::ClockWrong,
            format!(
                "the clock says {now} s since 1970, before the year in which this program was built: every certificate will be \"not yet valid\""
            ),
            "let this Pi reach a time server (timedatectl set-ntp true), and wait until `timedatectl` says that it is synchronised",
        )];
    }
    let synchronised = match patient.probes.synchronised() {
        Synchronised::Yes => true,
        // timesyncd makes it once a server has answered; chronyd and ntpd have no such file
        Synchronised::No | Synchronised::Unknown => machine.has("run/systemd/timesync/synchronized"),
    };
    if synchronised {
        return Vec::new();
    }
    let daemons = machine.processes();
    let daemon = daemons.iter().map(|(_, name)| name.as_str()).find(|name| {
        // the kernel keeps 15 bytes of a name
        ["systemd-timesyn", "chronyd", "ntpd", "openntpd"].contains(name)
    });
    let by =
        daemon.map_or_else(|| "no time service runs".to_owned(), |name| format!("{name} runs and has no answer yet"));
    let hardware_clock = machine.has("sys/class/rtc/rtc0");
    let (severity, why) = match (patient.subject.role, hardware_clock) {
        // it takes over certificates that another clock dated
        (Role::Node, false) => {
            (Severity::Error, "this Pi has no hardware clock, and a certificate may be \"not yet valid\" for it")
        }
        // the cluster's certificates are dated by this very clock
        (Role::Master, false) => (
            Severity::Warning,
            "this Pi has no hardware clock, and nodes with the right time may refuse its certificates",
        ),
        (Role::Node | Role::Master, true) => (Severity::Warning, "it goes by its hardware clock alone"),
    };
    vec![Finding::new(
        severity,
        Id::ClockUnsynchronised,
        format!("the clock is not synchronised ({by}): {why}"),
        "let this Pi reach a time server (timedatectl set-ntp true; in an offline crew the master can be one), and wait until `timedatectl` says that it is synchronised",
    )]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::trees::{Answers, Tree, found, one};
    use super::super::{Remote, Subject};
    use super::*;

    fn of(tree: &Tree, subject: &Subject, id: Id) -> Vec<Finding> {
        found(&tree.examine(&Answers::default(), subject), id)
    }

    fn node() -> Subject {
        Subject::new(Role::Node, Wanted::K3s, "v1.31.4+k3s1")
    }

    #[test]
    fn a_copied_card_is_an_error_until_somebody_decides() {
        let tree = Tree::debian();
        tree.put("etc/beehive/machine.toml", "serial = \"b\"\n");
        assert_eq!(of(&tree, &node(), Id::CopiedCard), []);
        tree.put("etc/beehive/machine.toml", "serial = \"b\"\ncopied_from = \"a\"\n");
        let finding = one(of(&tree, &node(), Id::CopiedCard));
        assert!(finding.evidence.contains("the Pi a") && finding.remedy.contains("--keep-keys"), "{finding:?}");
    }

    #[test]
    fn a_machine_id_is_one_machines_own() {
        let tree = Tree::debian();
        assert_eq!(of(&tree, &node(), Id::MachineId), []);
        for (id, word) in [
            ("", "is empty"),
            ("uninitialized\n", "uninitialized"),
            ("0123456789abcdef\n", "32 hexadecimal"),
            ("00000000000000000000000000000000\n", "placeholder"),
        ] {
            tree.put("etc/machine-id", id);
            let finding = one(of(&tree, &node(), Id::MachineId));
            assert!(finding.severity == Severity::Error && finding.evidence.contains(word), "{finding:?}");
        }
        tree.remove("etc/machine-id");
        assert!(one(of(&tree, &node(), Id::MachineId)).evidence.contains("not there"));
        tree.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        tree.put("var/lib/dbus/machine-id", "fedcba9876543210fedcba9876543210\n");
        assert_eq!(one(of(&tree, &node(), Id::MachineId)).severity, Severity::Warning);
    }

    #[test]
    fn no_finding_shows_a_machine_id() {
        let tree = Tree::debian();
        tree.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        tree.put("var/lib/dbus/machine-id", "fedcba9876543210fedcba9876543210\n");
        for finding in tree.examine(&Answers::default(), &node()) {
            let shown = format!("{finding:?}");
            assert!(!shown.contains("0123456789abcdef") && !shown.contains("fedcba"), "{shown}");
        }
    }

    #[test]
    fn the_hosts_name_is_the_nodes() {
        let mut subject = node();
        let tree = Tree::debian();
        assert_eq!(one(of(&tree, &subject, Id::HostName)).severity, Severity::Warning);
        subject.node = Some("bee42-crew-01-002".to_owned());
        let finding = one(of(&tree, &subject, Id::HostName));
        assert!(
            finding.severity == Severity::Error && finding.remedy.contains("set-hostname bee42-crew-01-002"),
            "{finding:?}"
        );
        tree.name("bee42-crew-01-002");
        assert_eq!(of(&tree, &subject, Id::HostName), []);
        tree.put("etc/hostname", "raspberrypi\n");
        assert!(one(of(&tree, &subject, Id::HostName)).evidence.contains("after the next start"));
        tree.name("Pi_2");
        subject.node = None;
        assert!(one(of(&tree, &subject, Id::HostName)).evidence.contains("cannot be a Node's name"));
        tree.remove("etc/hostname");
        tree.remove("proc/sys/kernel/hostname");
        assert!(one(of(&tree, &subject, Id::HostName)).evidence.contains("no name"));
    }

    #[test]
    fn the_hosts_file_knows_this_pi_and_does_not_lie_about_the_server() {
        let tree = Tree::debian();
        let mut subject = node();
        subject.server = Some(Remote { host: "crew-001".to_owned(), port: 6443 });
        assert_eq!(of(&tree, &subject, Id::Hosts), []);
        tree.put("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian crew-001 # copied\n");
        assert_eq!(one(of(&tree, &subject, Id::Hosts)).severity, Severity::Error);
        // on the master it is true
        subject.role = Role::Master;
        assert_eq!(of(&tree, &subject, Id::Hosts), []);
        tree.put("etc/hosts", "127.0.0.1 localhost\n#127.0.1.1 debian\n");
        assert_eq!(one(of(&tree, &subject, Id::Hosts)).severity, Severity::Warning);
    }

    #[test]
    fn name_servers_on_loopback_lead_in_a_circle_unless_there_are_others_behind() {
        let tree = Tree::debian();
        assert_eq!(of(&tree, &node(), Id::NameServers), []);
        tree.put("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n");
        assert!(one(of(&tree, &node(), Id::NameServers)).evidence.contains("8.8.8.8"));
        tree.put("run/systemd/resolve/resolv.conf", "nameserver 192.168.1.1\n");
        assert_eq!(of(&tree, &node(), Id::NameServers), []);
        tree.put("etc/resolv.conf", "# nothing\n");
        assert!(one(of(&tree, &node(), Id::NameServers)).evidence.contains("no name server"));
    }

    #[test]
    fn a_clock_that_nobody_sets_is_worse_for_who_joins_and_without_a_hardware_clock() {
        let severity = |tree: &Tree, answers: &Answers, role| {
            let subject = Subject::new(role, Wanted::K3s, "");
            let findings = tree.examine(answers, &subject);
            found(&findings, Id::ClockUnsynchronised).first().map(|finding| finding.severity)
        };
        let tree = Tree::bookworm();
        let good = Answers::default();
        assert_eq!(severity(&tree, &good, Role::Node), None);
        for no in [Synchronised::No, Synchronised::Unknown] {
            let answers = Answers { synchronised: no, ..Answers::default() };
            assert_eq!(severity(&tree, &answers, Role::Node), Some(Severity::Error));
            assert_eq!(severity(&tree, &answers, Role::Master), Some(Severity::Warning));
        }
        let answers = Answers { synchronised: Synchronised::No, ..Answers::default() };
        let with_clock = Tree::debian();
        assert_eq!(severity(&with_clock, &answers, Role::Node), Some(Severity::Warning));
        tree.put("proc/321/comm", "chronyd\n");
        let finding = one(found(&tree.examine(&answers, &node()), Id::ClockUnsynchronised));
        assert!(finding.evidence.contains("chronyd runs"), "{finding:?}");
        tree.put("run/systemd/timesync/synchronized", "");
        assert_eq!(severity(&tree, &answers, Role::Node), None);
    }

    #[test]
    fn a_clock_from_before_the_build_is_wrong() {
        let at = |unix_seconds| Tree::debian().examine(&Answers { unix_seconds, ..Answers::default() }, &node());
        assert_eq!(one(found(&at(BUILD_YEAR_UNIX_SECONDS - 1), Id::ClockWrong)).severity, Severity::Error);
        assert_eq!(found(&at(BUILD_YEAR_UNIX_SECONDS), Id::ClockWrong), []);
    }
}
