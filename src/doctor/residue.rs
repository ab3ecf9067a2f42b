//! What an earlier cluster left on this Pi, and the programs that an engine needs.
//!
//! What the wanted engine itself left is a warning: the engine finds it and mends it, or a reset does, and a join that was
//! cut short must be able to go on. What *another* engine left is an error: both would fight for ports and addresses.

use super::{Finding, Id, Machine, Minor, Patient, Severity, Wanted};

/// What shows that k3s was here (its `install.sh` and uninstall scripts). A node's password stays behind after
/// `k3s-uninstall.sh`, and a Pi of the same name without it is refused (k3s issue 802), so that file alone is harmless.
const OF_K3S: [&str; 5] = [
    "etc/rancher/k3s/k3s.yaml",
    "etc/systemd/system/k3s.service",
    "etc/systemd/system/k3s-agent.service",
    "var/lib/rancher/k3s/server/db",
    "var/lib/rancher/k3s/agent/client-kubelet.crt",
];

/// What `kubeadm init` and `join` make.
const OF_KUBEADM: [&str; 5] = [
    "etc/kubernetes/admin.conf",
    "etc/kubernetes/kubelet.conf",
    "etc/kubernetes/manifests/kube-apiserver.yaml",
    "var/lib/etcd/member",
    "var/lib/kubelet/config.yaml",
];

/// Interfaces that network add-ons make, by how their names begin.
const INTERFACES: [&str; 8] = ["cni", "flannel", "kube-", "cali", "vxlan.calico", "weave", "cilium", "tunl0"];

/// Where the add-ons of kubeadm's clusters are configured; k3s has a folder of its own.
const CNI: &str = "etc/cni/net.d";

/// All checks of this module.
pub fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = files(patient);
    findings.extend(interfaces(patient));
    findings.extend(programs(patient));
    findings
}

fn present(machine: &Machine, paths: &[&str]) -> Vec<String> {
    // a folder that a reset has emptied is no cluster
    let full = |path: &&&str| machine.has(path) && (!machine.path(path).is_dir() || !machine.names(path).is_empty());
    paths.iter().filter(full).map(|path| format!("/{path}")).collect()
}

fn files(patient: &Patient<'_>) -> Vec<Finding> {
    let machine = patient.machine;
    let wanted = patient.subject.engine;
    let (own, other, other_name) = match wanted {
        Wanted::K3s => (OF_K3S, OF_KUBEADM, Wanted::Kubeadm),
        Wanted::Kubeadm => (OF_KUBEADM, OF_K3S, Wanted::K3s),
    };
    let mut findings = Vec::new();
    let others = present(machine, &other);
    if !others.is_empty() {
        findings.push(Finding::new(
            Severity::Error,
            Id::Residue,
            format!("{} was here: {}", other_name.as_str(), others.join(", ")),
            match other_name {
                Wanted::K3s => "remove it (k3s-killall.sh; k3s-uninstall.sh or k3s-agent-uninstall.sh), and restart",
                Wanted::Kubeadm => "remove it (kubeadm reset -f; rm -r /etc/cni/net.d), and restart",
            },
        ));
    }
    // a member's own files are what it lives on
    if patient.runs_wanted_engine() {
        return findings;
    }
    let mut left = present(machine, &own);
    if wanted == Wanted::Kubeadm {
        left.extend(machine.names(CNI).into_iter().map(|name| format!("/{CNI}/{name}")));
    }
    if !left.is_empty() {
        findings.push(Finding::new(
            Severity::Warning,
            Id::Residue,
            format!("{} does not run, and has been here: {}", wanted.as_str(), left.join(", ")),
            "if this Pi is a member of the crew's cluster, start it again (beehive does); else reset it (beehive node reset)",
        ));
    }
    findings
}

fn interfaces(patient: &Patient<'_>) -> Option<Finding> {
    if patient.runs_wanted_engine() {
        return None;
    }
    let of_a_cluster = |name: &String| INTERFACES.iter().any(|beginning| name.starts_with(beginning));
    let found: Vec<String> = patient.machine.names("sys/class/net").into_iter().filter(of_a_cluster).collect();
    if found.is_empty() {
        return None;
    }
    Some(Finding::new(
        Severity::Warning,
        Id::Residue,
        format!("interfaces of a cluster are there, and it does not run: {}", found.join(", ")),
        "restart this Pi, or remove them (ip link delete NAME)",
    ))
}

/// A program, where it may be, whether the work fails without it, and where it comes from. kubeadm's own list is in its
/// `InPathCheck`s; crictl is asked for because `kubeadm reset` leaves containers running without it.
const PROGRAMS: [(&str, &[&str], Severity, &str); 5] = [
    (
        "kubeadm",
        &["usr/bin/kubeadm", "usr/local/bin/kubeadm"],
        Severity::Error,
        "install the package kubeadm in the wanted version",
    ),
    (
        "kubelet",
        &["usr/bin/kubelet", "usr/local/bin/kubelet"],
        Severity::Error,
        "install the package kubelet in the wanted version",
    ),
    (
        "crictl",
        &["usr/bin/crictl", "usr/local/bin/crictl"],
        Severity::Warning,
        "install the package cri-tools; without it a reset leaves containers running",
    ),
    ("conntrack", &["usr/sbin/conntrack", "usr/bin/conntrack"], Severity::Error, "apt-get install conntrack"),
    ("containerd", &["usr/bin/containerd", "usr/local/bin/containerd"], Severity::Error, "apt-get install containerd"),
];

/// Older kubeadm ran on Docker by itself; from here on only on what speaks CRI (kubernetes.io, "dockershim removal").
const NO_DOCKERSHIM: Minor = Minor { major: 1, minor: 24 };

fn programs(patient: &Patient<'_>) -> Vec<Finding> {
    let machine = patient.machine;
    match patient.subject.engine {
        // one file, which the engine installs from the card or fetches
        Wanted::K3s => return Vec::new(),
        Wanted::Kubeadm => {}
    }
    let old = patient.subject.version.is_some_and(|version| version < NO_DOCKERSHIM);
    let docker = old && machine.has("usr/bin/dockerd");
    let mut worst = Vec::new();
    for (name, places, severity, remedy) in PROGRAMS {
        if places.iter().any(|place| machine.has(place)) || (docker && matches!(name, "containerd" | "crictl")) {
            continue;
        }
        worst.push((severity, name, remedy));
    }
    let Some(severity) = worst.iter().map(|(severity, ..)| *severity).max() else { return Vec::new() };
    let names: Vec<&str> = worst.iter().map(|(_, name, _)| *name).collect();
    let remedies: Vec<&str> = worst.iter().map(|(.., remedy)| *remedy).collect();
    vec![Finding::new(severity, Id::Program, format!("not installed: {}", names.join(", ")), remedies.join("; "))]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Subject;
    use super::super::trees::{Answers, Tree, found, one};
    use super::*;
    use beehive_mqtt::node::Role;

    fn of(tree: &Tree, engine: Wanted, id: Id) -> Vec<Finding> {
        found(&tree.examine(&Answers::default(), &Subject::new(Role::Node, engine, "v1.31.0")), id)
    }

    #[test]
    fn an_own_left_over_warns_and_anothers_is_an_error() {
        let tree = Tree::debian();
        assert_eq!(of(&tree, Wanted::K3s, Id::Residue), []);
        // kubeadm reset leaves these empty, and k3s' uninstaller this file
        tree.folder("etc/kubernetes/manifests");
        tree.folder("var/lib/etcd/member");
        tree.put("etc/rancher/node/password", "secret\n");
        assert_eq!(of(&tree, Wanted::K3s, Id::Residue), []);
        tree.put("etc/kubernetes/kubelet.conf", "");
        let finding = one(of(&tree, Wanted::K3s, Id::Residue));
        assert!(
            finding.severity == Severity::Error && finding.evidence.contains("/etc/kubernetes/kubelet.conf"),
            "{finding:?}"
        );
        let finding = one(of(&tree, Wanted::Kubeadm, Id::Residue));
        assert_eq!(finding.severity, Severity::Warning);
        tree.put("proc/8/comm", "kubelet\n");
        assert_eq!(of(&tree, Wanted::Kubeadm, Id::Residue), [], "it is a member");
        assert_eq!(one(of(&tree, Wanted::K3s, Id::Residue)).severity, Severity::Error);
    }

    #[test]
    fn each_file_of_either_engine_counts() {
        for (paths, engine) in [(OF_K3S, Wanted::K3s), (OF_KUBEADM, Wanted::Kubeadm)] {
            for path in paths {
                let tree = Tree::debian();
                tree.put(&format!("{path}/x"), "");
                assert_eq!(one(of(&tree, engine, Id::Residue)).severity, Severity::Warning, "{path}");
            }
        }
    }

    #[test]
    fn networks_of_a_cluster_that_does_not_run_are_told() {
        let tree = Tree::debian();
        tree.put("etc/cni/net.d/10-flannel.conflist", "{}");
        assert_eq!(of(&tree, Wanted::K3s, Id::Residue), [], "k3s looks elsewhere");
        assert!(one(of(&tree, Wanted::Kubeadm, Id::Residue)).evidence.contains("/etc/cni/net.d/10-flannel.conflist"));
        let tree = Tree::debian();
        for name in ["lo", "eth0", "cni0", "flannel.1"] {
            tree.folder(&format!("sys/class/net/{name}"));
        }
        assert!(one(of(&tree, Wanted::K3s, Id::Residue)).evidence.ends_with("cni0, flannel.1"));
        tree.put("proc/8/comm", "k3s-agent\n");
        assert_eq!(of(&tree, Wanted::K3s, Id::Residue), []);
    }

    #[test]
    fn kubeadm_wants_its_programs() {
        let tree = Tree::debian();
        assert_eq!(of(&tree, Wanted::K3s, Id::Program), []);
        let finding = one(of(&tree, Wanted::Kubeadm, Id::Program));
        assert_eq!(finding.evidence, "not installed: kubeadm, kubelet, crictl, conntrack, containerd");
        assert_eq!(finding.severity, Severity::Error);
        for (name, places, ..) in PROGRAMS {
            if name != "crictl" {
                tree.put(places.last().unwrap(), "");
            }
        }
        let finding = one(of(&tree, Wanted::Kubeadm, Id::Program));
        assert!(finding.severity == Severity::Warning && finding.evidence.ends_with(": crictl"), "{finding:?}");
        // the crew's old playbooks: Docker alone
        tree.remove("usr/local/bin/containerd");
        tree.put("usr/bin/dockerd", "");
        let old = tree.examine(&Answers::default(), &Subject::new(Role::Node, Wanted::Kubeadm, "v1.13.5"));
        assert_eq!(found(&old, Id::Program), []);
        assert_eq!(one(of(&tree, Wanted::Kubeadm, Id::Program)).severity, Severity::Error);
    }
}
