//! Ports that the engine needs and somebody else has, and the machines that it has to reach.

use beehive_mqtt::node::Role;

use super::probes::Reach;
use super::{Finding, Id, Machine, Minor, Patient, Remote, Severity, Wanted};

/// A port and what is at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    number: u16,
    what: &'static str,
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// The kernel's tables (proc(5)), and the state of a socket there that waits for others: `TCP_LISTEN`; a bound UDP socket
    /// is in `TCP_CLOSE`.
    fn tables(self) -> ([&'static str; 2], &'static str) {
        match self {
            Self::Tcp => (["proc/net/tcp", "proc/net/tcp6"], "0A"),
            Self::Udp => (["proc/net/udp", "proc/net/udp6"], "07"),
        }
    }
}

const fn tcp(number: u16, what: &'static str) -> Port {
    Port { number, what, protocol: Protocol::Tcp }
}

/// kubernetes.io, "Ports and Protocols", with the loopback ones of kubelet and kube-proxy.
const EVERY: [Port; 4] =
    [tcp(10250, "kubelet"), tcp(10248, "kubelet"), tcp(10249, "kube-proxy"), tcp(10256, "kube-proxy")];
const CONTROL_PLANE: [Port; 3] =
    [tcp(6443, "the API server"), tcp(10257, "the controller manager"), tcp(10259, "the scheduler")];
/// kubeadm's etcd. k3s keeps SQLite on a single server, which listens nowhere.
const ETCD: [Port; 2] = [tcp(2379, "etcd"), tcp(2380, "etcd")];
/// docs.k3s.io, "Requirements", with k3s' own load balancer and its containerd.
const K3S: [Port; 3] = [
    tcp(6444, "k3s' way to the API server"),
    tcp(10010, "k3s' containerd"),
    Port { number: 8472, what: "flannel", protocol: Protocol::Udp },
];

/// All checks of this module.
pub fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = ports(patient);
    findings.extend(api_server(patient));
    findings.extend(registry(patient));
    findings
}

/// The ports that an engine needs.
fn needed(role: Role, engine: Wanted) -> Vec<Port> {
    let mut ports = EVERY.to_vec();
    match role {
        Role::Master => ports.extend(CONTROL_PLANE),
        Role::Node => {}
    }
    match (engine, role) {
        (Wanted::K3s, Role::Master | Role::Node) => ports.extend(K3S),
        (Wanted::Kubeadm, Role::Master) => ports.extend(ETCD),
        (Wanted::Kubeadm, Role::Node) => {}
    }
    ports
}

/// The sockets that wait at a port: their inodes.
fn waiting(machine: &Machine, port: Port) -> Vec<u64> {
    let (tables, state) = port.protocol.tables();
    let mut found = Vec::new();
    for table in tables {
        let text = machine.text(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(is), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else { continue };
            let number = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            if number == Some(port.number) && *is == state {
                found.extend(inode.parse::<u64>());
            }
        }
    }
    found
}

fn ports(patient: &Patient<'_>) -> Vec<Finding> {
    let subject = patient.subject;
    let taken: Vec<(Port, u64)> = needed(subject.role, subject.engine)
        .into_iter()
        .filter_map(|port| Some((port, *waiting(patient.machine, port).first()?)))
        .collect();
    if taken.is_empty() {
        return Vec::new();
    }
    // only now: every process' descriptors are looked through
    let owners = patient.machine.sockets();
    let runs = patient.runs_wanted_engine();
    let mut findings = Vec::new();
    for (port, inode) in taken {
        let (severity, holder) = match owners.get(&inode) {
            Some((_, name)) if is_the_engines(name, subject.engine) => continue,
            Some((number, name)) => (Severity::Error, format!("{name} (process {number})")),
            // the engine's own, as far as one who is not root can see; or its overlay's, which the kernel holds
            None if runs => continue,
            None if port.protocol == Protocol::Udp => {
                (Severity::Warning, "the kernel: an overlay of an earlier cluster (ip link)".to_owned())
            }
            None => (Severity::Error, "a process that only root may see".to_owned()),
        };
        let (protocol, number) = (port.protocol.as_str(), port.number);
        findings.push(Finding::new(
            severity,
            Id::PortInUse,
            format!("{protocol} port {number}, which {} needs, is taken by {holder}", port.what),
            "end that program, or give it another port; what an earlier cluster left, a reset removes",
        ));
    }
    findings
}

fn is_the_engines(process: &str, engine: Wanted) -> bool {
    engine.processes().contains(&process) || (engine == Wanted::K3s && process == "containerd")
}

fn api_server(patient: &Patient<'_>) -> Option<Finding> {
    let server = match patient.subject.role {
        // it is made here
        Role::Master => return None,
        Role::Node => patient.subject.server.as_ref()?,
    };
    let (evidence, remedy) = match patient.probes.reach(&server.host, server.port) {
        Reach::Tls => return None,
        Reach::NotTls(why) => (
            format!("something answers at {server} that is no API server: {why}"),
            "correct server in the master's [cluster], or end what runs at that port",
        ),
        Reach::Nothing(why) => (
            format!("the API server {server} does not answer: {why}"),
            "look whether the master is on and its cluster runs, whether both are in one network, and whether a firewall is between them",
        ),
    };
    Some(Finding::new(Severity::Error, Id::ApiServer, evidence, remedy))
}

/// From here on the images of kubeadm's control plane come from registry.k8s.io; k8s.gcr.io is frozen.
const NEW_REGISTRY: Minor = Minor { major: 1, minor: 25 };

fn registry(patient: &Patient<'_>) -> Option<Finding> {
    let (machine, subject) = (patient.machine, patient.subject);
    let remote = match (&subject.registry, subject.engine) {
        (Some(registry), _) => registry.clone(),
        // images on the card, or a mirror that k3s is told of: the registry is not needed
        (None, Wanted::K3s)
            if !machine.names("var/lib/rancher/k3s/agent/images").is_empty()
                || machine.has("etc/rancher/k3s/registries.yaml") =>
        {
            return None;
        }
        (None, Wanted::Kubeadm) if !machine.names("etc/containerd/certs.d").is_empty() => return None,
        (None, Wanted::K3s) => Remote { host: "registry-1.docker.io".to_owned(), port: 443 },
        (None, Wanted::Kubeadm) => {
            let new = subject.version.is_none_or(|version| version >= NEW_REGISTRY);
            Remote { host: if new { "registry.k8s.io" } else { "k8s.gcr.io" }.to_owned(), port: 443 }
        }
    };
    let why = match patient.probes.reach(&remote.host, remote.port) {
        Reach::Tls => return None,
        Reach::NotTls(why) => format!("does not speak TLS: {why}"),
        Reach::Nothing(why) => format!("does not answer: {why}"),
    };
    Some(Finding::new(
        Severity::Warning,
        Id::Registry,
        format!("the registry {remote} {why}; images that are not on this Pi yet cannot be fetched"),
        "let this Pi reach it, name a mirror (/etc/rancher/k3s/registries.yaml, /etc/containerd/certs.d), or put the images onto the card (/var/lib/rancher/k3s/agent/images)",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Subject;
    use super::super::trees::{Answers, Tree, found, one};
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn line(port: u16, state: &str, inode: u64) -> String {
        format!(
            "   0: 00000000:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
        )
    }

    fn of(tree: &Tree, role: Role, engine: Wanted) -> Vec<Finding> {
        found(&tree.examine(&Answers::default(), &Subject::new(role, engine, "v1.31.0")), Id::PortInUse)
    }

    #[test]
    fn a_taken_port_names_who_has_it_and_the_engine_itself_is_no_fault() {
        let tree = Tree::debian();
        tree.put("proc/net/tcp", &format!("{HEAD}{}{}", line(6443, "0A", 101), line(22, "0A", 102)));
        tree.put("proc/77/comm", "nginx\n");
        tree.link("proc/77/fd/3", "socket:[101]");
        let finding = one(of(&tree, Role::Master, Wanted::K3s));
        assert_eq!(finding.severity, Severity::Error);
        assert!(
            finding.evidence.contains("6443, which the API server needs, is taken by nginx (process 77)"),
            "{finding:?}"
        );
        // a node has no API server
        assert_eq!(of(&tree, Role::Node, Wanted::K3s), []);
        for (process, engine, fault) in [
            ("k3s-server", Wanted::K3s, false),
            ("k3s-server", Wanted::Kubeadm, true),
            ("kube-apiserver", Wanted::Kubeadm, false),
            ("kube-apiserver", Wanted::K3s, true),
        ] {
            tree.put("proc/77/comm", &format!("{process}\n"));
            assert_eq!(!of(&tree, Role::Master, engine).is_empty(), fault, "{process} {engine:?}");
        }
    }

    #[test]
    fn connections_are_not_taken_for_servers_and_both_families_count() {
        let tree = Tree::debian();
        tree.put("proc/net/tcp", &format!("{HEAD}{}", line(10250, "01", 101)));
        assert_eq!(of(&tree, Role::Node, Wanted::K3s), []);
        let six = line(10250, "0A", 101).replace(
            "00000000:280A 00000000:0000",
            "00000000000000000000000000000000:280A 00000000000000000000000000000000:0000",
        );
        tree.put("proc/net/tcp6", &format!("{HEAD}{six}"));
        let finding = one(of(&tree, Role::Node, Wanted::K3s));
        assert!(finding.evidence.contains("only root may see"), "{finding:?}");
        // seen by one who is not root, with the engine running
        tree.put("proc/9/comm", "k3s-agent\n");
        assert_eq!(of(&tree, Role::Node, Wanted::K3s), []);
    }

    #[test]
    fn what_is_needed_depends_on_role_and_engine() {
        let numbers = |role, engine| {
            let mut numbers: Vec<u16> = needed(role, engine).iter().map(|port| port.number).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(numbers(Role::Node, Wanted::Kubeadm), [10248, 10249, 10250, 10256]);
        assert_eq!(numbers(Role::Node, Wanted::K3s), [6444, 8472, 10010, 10248, 10249, 10250, 10256]);
        assert_eq!(
            numbers(Role::Master, Wanted::Kubeadm),
            [2379, 2380, 6443, 10248, 10249, 10250, 10256, 10257, 10259]
        );
        let tree = Tree::debian();
        tree.put("proc/net/udp", &format!("{HEAD}{}", line(8472, "07", 0)));
        assert_eq!(one(of(&tree, Role::Node, Wanted::K3s)).severity, Severity::Warning);
        assert_eq!(of(&tree, Role::Node, Wanted::Kubeadm), []);
    }

    #[test]
    fn a_node_wants_its_server_and_everybody_the_registry() {
        let tree = Tree::debian();
        let nobody = Answers { reach: Reach::Nothing("no route".to_owned()), ..Answers::default() };
        let web = Answers { reach: Reach::NotTls("it hung up".to_owned()), ..Answers::default() };
        let mut subject = Subject::new(Role::Node, Wanted::K3s, "v1.31.0");
        assert_eq!(found(&tree.examine(&nobody, &subject), Id::ApiServer), [], "which one is not known");
        subject.server = Some(Remote { host: "192.168.1.10".to_owned(), port: 6443 });
        assert_eq!(found(&tree.examine(&Answers::default(), &subject), Id::ApiServer), []);
        for (answers, word) in [(&nobody, "does not answer: no route"), (&web, "no API server")] {
            let finding = one(found(&tree.examine(answers, &subject), Id::ApiServer));
            assert!(finding.severity == Severity::Error && finding.evidence.contains(word), "{finding:?}");
        }
        assert_eq!(one(found(&tree.examine(&nobody, &subject), Id::Registry)).severity, Severity::Warning);
        subject.role = Role::Master;
        assert_eq!(found(&tree.examine(&nobody, &subject), Id::ApiServer), [], "it is made here");
        // what is on the card already need not be fetched
        tree.put("var/lib/rancher/k3s/agent/images/k3s-airgap-images-arm.tar.zst", "");
        assert_eq!(found(&tree.examine(&nobody, &subject), Id::Registry), []);
        subject.registry = Some(Remote { host: "mirror".to_owned(), port: 5000 });
        assert!(
            one(found(&tree.examine(&web, &subject), Id::Registry)).evidence.contains("mirror:5000 does not speak TLS")
        );
        for (version, host) in [("v1.24.0", "k8s.gcr.io"), ("v1.25.0", "registry.k8s.io"), ("", "registry.k8s.io")] {
            let subject = Subject::new(Role::Node, Wanted::Kubeadm, version);
            assert!(one(found(&tree.examine(&nobody, &subject), Id::Registry)).evidence.contains(host));
        }
    }
}
