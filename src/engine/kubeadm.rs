//! kubeadm, with containerd: what the crews began with.
//!
//! Sources: kubernetes.io, "kubeadm init", "kubeadm join", "kubeadm reset", "kubeadm upgrade", "kubeadm Configuration" (v1beta2 to
//! v1beta4), "Container Runtimes" (forwarding, modules), "Operating etcd clusters"; kubeadm 1.20 as tried. In short:
//! - Everything goes in by a configuration file ([`CONFIG`], readable for root alone, in memory, removed afterwards): a token
//!   never is an argument. With `--config` only flags that begin with `--skip-` and a few others are taken.
//! - `init` makes a token of its own that lives for a day and prints it; here it lives a minute and is not printed.
//! - `init` and `join` refuse a machine on which they began before, so a second attempt resets first.
//! - `reset` leaves the network configuration, packet filter rules, links and `~/.kube/config`; without `crictl` it leaves the
//!   containers running.
//! - Upstream builds nothing for 32-bit ARM from 1.27 on (kubernetes PR 115742).
//! - Files for kubeadm and kubelet are YAML; JSON is YAML.

use std::net::IpAddr;
use std::time::Duration;

use beehive_mqtt::Text;
use beehive_mqtt::node::EngineRun;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::artefacts::{Release, choose, versions};
use super::lifecycle::{Attempt, ClusterPart, Distribution, Entry, LOOK_EVERY, Membership, wait_ready};
use super::site::{Arch, Change, Failure, Files, Mode, RUN_DIR, Site, pause};
use super::snapshot::copy_tree;
use super::sweep::{self, call, is_active, kill_shims, stop_unit, systemctl, unmount};
use super::tool::{Ran, ToolCall};
use crate::config::Pair;

const KUBEADM: &str = "/usr/bin/kubeadm";
const KUBELET: &str = "/usr/bin/kubelet";
const KUBECTL: &str = "/usr/bin/kubectl";
const CRICTL: &str = "/usr/bin/crictl";
const CONTAINERD: &str = "/usr/bin/containerd";
const CTR: &str = "/usr/bin/ctr";
const DPKG: &str = "/usr/bin/dpkg";
const APT_MARK: &str = "/usr/bin/apt-mark";
const MODPROBE: &str = "/usr/sbin/modprobe";
const SYSCTL: &str = "/usr/sbin/sysctl";
const SWAPOFF: &str = "/usr/sbin/swapoff";

const ADMIN: &str = "/etc/kubernetes/admin.conf";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";
const ETCD: &str = "/var/lib/etcd";
/// What `init` and `join` read.
const CONFIG: &str = "/run/beehive-engine/kubeadm.conf";
const SOCKET: &str = "/run/containerd/containerd.sock";
const UNIT: &str = "kubelet.service";
const RUNTIME: &str = "containerd.service";
/// The kubelet's command line has these two words for each of its containers' shims.
const SHIMS: &[&str] = &["containerd-shim", "-namespace k8s.io"];
/// Not the folder itself: it may be a disk of its own.
const VOLUMES: &[&str] = &["/var/lib/kubelet/pods", "/var/lib/kubelet/plugins"];
const FOLDERS: [&str; 7] =
    ["/etc/kubernetes", "/var/lib/kubelet", "/etc/cni/net.d", "/var/lib/cni", "/run/flannel", "/root/.kube", ETCD];
/// Ours: what the kernel and the kubelet need, as "Container Runtimes" says, at each boot.
const MODULES_FILE: &str = "/etc/modules-load.d/beehive-engine.conf";
const SYSCTL_FILE: &str = "/etc/sysctl.d/90-beehive-engine.conf";
const DROP_IN: &str = "/etc/systemd/system/kubelet.service.d/20-beehive.conf";
const FORWARDING: &str = "\
net.ipv4.ip_forward = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
";
const LISTS: &[&str] = &["SHA256SUMS"];

/// The addresses of pods where the configuration names none: those in flannel's own manifest.
const POD_CIDR: &str = "10.244.0.0/16";

/// The last minor version for 32-bit ARM.
const LAST_ON_ARM: u32 = 26;

/// `init` took 213 s on an armv7 Pi (reference of 1.16), with its images there; twice that and some for a slow card.
const INIT: Duration = Duration::from_secs(600);
/// A real join took 17 s on a PC. The command that waits for it has five minutes, and its reason is wanted before they are over.
const JOIN: Duration = Duration::from_secs(240);
/// How long `join` looks for the server; where it is not there it is up to the coordinator to ask again.
const DISCOVERY: &str = "1m0s";
/// `reset` took 1.1 s (tried); it asks a runtime that may hang, container by container.
const RESET: Duration = Duration::from_secs(90);
/// A control plane that starts again: the kubelet, then etcd, then the API server.
const READY: Duration = Duration::from_secs(300);
/// A kubelet that ends right after its start is started again by systemd after 10 s; one that was up this long is up.
const STEADY: Duration = Duration::from_secs(5);
const KUBELET_UP: Duration = Duration::from_secs(60);
/// The pods are asked to end; the whole stop of an engine has a minute by default.
const PODS_END: Duration = Duration::from_secs(15);
/// Packages of 100 MB on a slow card.
const INSTALL: Duration = Duration::from_secs(600);
/// The images of a control plane, from the card or the network.
const IMAGES: Duration = Duration::from_secs(900);
/// `upgrade apply` restarts the four static pods one after the other. The command that waits for it has 15 min.
const UPGRADE: Duration = Duration::from_secs(780);
/// Copying a database of some ten megabytes.
const COPY: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(30);

/// The engine.
pub(super) struct Kubeadm;

/// `v1.26.15` as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut numbers = text.trim_start_matches('v').split('.').map(|number| {
            let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
            number.get(..digits).and_then(|digits| digits.parse().ok())
        });
        match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor), Some(patch)) => Ok(Self { major, minor, patch }),
            _ => Err(Failure::new(
                "bad-version",
                format!("{text:?} is no version of Kubernetes; write it as in v1.26.15"),
            )),
        }
    }

    /// The version of the configuration's format that this kubeadm reads and does not warn of.
    fn api(self) -> Api {
        match self.minor {
            0..=14 => Api::Beta1,
            15..=21 => Api::Beta2,
            22..=30 => Api::Beta3,
            _ => Api::Beta4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Beta1,
    Beta2,
    Beta3,
    Beta4,
}

impl Api {
    fn as_str(self) -> &'static str {
        match self {
            Self::Beta1 => "kubeadm.k8s.io/v1beta1",
            Self::Beta2 => "kubeadm.k8s.io/v1beta2",
            Self::Beta3 => "kubeadm.k8s.io/v1beta3",
            Self::Beta4 => "kubeadm.k8s.io/v1beta4",
        }
    }

    /// Flags: an object up to v1beta3, a list of names and values after.
    fn flags(self, flags: &[Pair]) -> Value {
        match self {
            Self::Beta1 | Self::Beta2 | Self::Beta3 => {
                flags.iter().map(|flag| (flag.name.clone(), Value::from(flag.value.clone()))).collect()
            }
            Self::Beta4 => flags.iter().map(|flag| json!({"name": flag.name, "value": flag.value})).collect(),
        }
    }
}

impl Kubeadm {
    async fn installed(&self, site: &Site) -> Result<Option<String>, Failure> {
        if !site.has_tool(KUBEADM) || !site.has_tool(KUBELET) {
            return Ok(None);
        }
        let ran = site
            .must("asking kubeadm for its version", call(KUBEADM, ["version", "--output", "short"]).within(SHORT))
            .await?;
        Ok(Some(ran.stdout.trim().to_owned()).filter(|version| !version.is_empty()))
    }

    /// Makes this machine one that runs a kubelet of this version.
    async fn prepare(&self, site: &Site, version: &str) -> Result<(), Failure> {
        if self.installed(site).await?.as_deref() != Some(version) {
            self.install(site, version, &["kubernetes-cni", "cri-tools", "kubelet", "kubectl", "kubeadm"]).await?;
        }
        for program in [KUBECTL, CRICTL, CONTAINERD] {
            if !site.has_tool(program) {
                let why = if program == CRICTL { "; without it a reset leaves containers running" } else { "" };
                return Err(Failure::new(
                    "no-tool",
                    format!(
                        "{program} is not installed on this Pi{why}; install it, or put its package with the artefacts"
                    ),
                ));
            }
        }
        self.kernel(site).await?;
        self.mirrors(site).await?;
        systemctl(site, ["enable", "--now", RUNTIME]).await?;
        self.import(site, version).await?;
        systemctl(site, ["enable", UNIT]).await
    }

    /// Installs the packages of a version from the card.
    async fn install(&self, site: &Site, version: &str, packages: &'static [&'static str]) -> Result<(), Failure> {
        let release = Release::of(site, self.kind(), version, LISTS);
        let endings = [format!("_{}.deb", debian(site.arch)), "_all.deb".to_owned()];
        let debs = site
            .disk(move |files| {
                let names = files.list(&release.folder)?;
                let mut debs = Vec::new();
                for package in packages {
                    let wanted = |name: &&String| {
                        name.starts_with(&format!("{package}_")) && endings.iter().any(|ending| name.ends_with(ending))
                    };
                    let Some(name) = names.iter().find(wanted) else { continue };
                    release.check(files, name)?;
                    debs.push(files.word(release.path(name)));
                }
                if debs.is_empty() {
                    let (folder, names) = (&release.folder, packages.join(", "));
                    return Err(Failure::new(
                        "no-artefact",
                        format!("{folder} has no package of {names} for this Pi; copy them there, or install them"),
                    ));
                }
                Ok(debs)
            })
            .await?;
        let words = ["--install".to_owned(), "--force-confold".to_owned()].into_iter().chain(debs);
        site.must("installing packages", call(DPKG, words).with("DEBIAN_FRONTEND", "noninteractive").within(INSTALL))
            .await?;
        if site.has_tool(APT_MARK) {
            // an upgrade of the system must not bring another version
            site.must("holding packages", call(APT_MARK, ["hold", "kubeadm", "kubelet", "kubectl"]).within(SHORT))
                .await?;
        }
        Ok(())
    }

    /// Modules, forwarding and swap, now and at each boot.
    async fn kernel(&self, site: &Site) -> Result<(), Failure> {
        let keeps_swap =
            site.settings.kubelet_args.iter().any(|arg| arg.name == "fail-swap-on" && arg.value == "false");
        let sysctl = site.word(SYSCTL_FILE);
        let changed = site
            .disk(move |files| {
                files.write(MODULES_FILE, b"overlay\nbr_netfilter\n", Mode::Public)?;
                files.write(SYSCTL_FILE, FORWARDING.as_bytes(), Mode::Public)?;
                if keeps_swap {
                    return files.remove_file(DROP_IN);
                }
                let why = "# by beehive: a kubelet does not start while there is swap";
                let drop_in = format!("{why}\n[Service]\nExecStartPre=-{SWAPOFF} --all\n");
                files.write(DROP_IN, drop_in.as_bytes(), Mode::Public)
            })
            .await?;
        for module in ["overlay", "br_netfilter"] {
            // it may be built in; what is missing then is seen by kubeadm's own checks
            site.run(call(MODPROBE, [module]).within(SHORT)).await?;
        }
        site.must("switching forwarding on", call(SYSCTL, ["--load", &sysctl]).within(SHORT)).await?;
        if !keeps_swap {
            site.must("switching swap off", call(SWAPOFF, ["--all"]).within(SHORT)).await?;
        }
        match changed {
            Change::Made => systemctl(site, ["daemon-reload"]).await,
            Change::None => Ok(()),
        }
    }

    /// `hosts.toml` for each registry, as containerd's "Registry Configuration" has it.
    async fn mirrors(&self, site: &Site) -> Result<(), Failure> {
        let mirrors = site.settings.mirrors.clone();
        if mirrors.is_empty() {
            return Ok(());
        }
        site.disk(move |files| {
            if !files.text("/etc/containerd/config.toml")?.contains("/etc/containerd/certs.d") {
                let reason = "mirrors are configured, but containerd does not look for them; set config_path = \
                              \"/etc/containerd/certs.d\" in the registry section of /etc/containerd/config.toml and \
                              restart containerd";
                return Err(Failure::new("runtime", reason));
            }
            for (registry, endpoints) in &mirrors {
                let mut text = format!("# by beehive\nserver = \"https://{}\"\n", upstream(registry));
                for endpoint in endpoints {
                    text.push_str(&format!("\n[host.\"{endpoint}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"));
                }
                files.write(format!("/etc/containerd/certs.d/{registry}/hosts.toml"), text.as_bytes(), Mode::Public)?;
            }
            Ok(())
        })
        .await
    }

    /// Brings the images that lie on the card to containerd.
    async fn import(&self, site: &Site, version: &str) -> Result<(), Failure> {
        let release = Release::of(site, self.kind(), version, LISTS);
        let arch = site.arch.as_str();
        let archives = site
            .disk(move |files| {
                let mut archives = Vec::new();
                for name in files.list(&release.folder)? {
                    let stem = name.strip_suffix(".tar").or_else(|| name.strip_suffix(".tar.gz"));
                    if stem.is_some_and(|stem| stem.starts_with("images") && stem.ends_with(&format!("-{arch}"))) {
                        release.check(files, &name)?;
                        archives.push(files.word(release.path(&name)));
                    }
                }
                Ok(archives)
            })
            .await?;
        for archive in archives {
            site.must(
                "importing images",
                call(CTR, ["--namespace", "k8s.io", "images", "import", &archive]).within(IMAGES),
            )
            .await?;
        }
        Ok(())
    }

    /// What `init` and `join` say of the node.
    fn registration(&self, site: &Site, version: Version, address: Option<IpAddr>) -> Value {
        let api = version.api();
        let mut flags = site.settings.kubelet_args.clone();
        if let Some(address) = address {
            flags.push(Pair { name: "node-ip".to_owned(), value: address.to_string() });
        }
        if !site.settings.labels.is_empty() {
            let labels = site.settings.labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            flags.push(Pair { name: "node-labels".to_owned(), value: labels });
        }
        // without a scheme it is warned of from 1.24 on, with one it is taken for Docker's before
        let socket = if version.minor >= 24 { format!("unix://{SOCKET}") } else { SOCKET.to_owned() };
        let mut registration = json!({
            "name": site.node.as_str(),
            "criSocket": socket,
            "kubeletExtraArgs": api.flags(&flags),
        });
        if !site.settings.taints.is_empty() {
            let taints = site.settings.taints.iter();
            registration["taints"] =
                taints.map(|taint| json!({"key": taint.key, "value": taint.value, "effect": taint.effect})).collect();
        }
        registration
    }

    fn init_config(&self, site: &Site, text: &str, address: Option<IpAddr>) -> Result<String, Failure> {
        let version = Version::parse(text)?;
        let api = version.api();
        let mut init = json!({
            "apiVersion": api.as_str(), "kind": "InitConfiguration",
            "bootstrapTokens": [{"ttl": "1m0s", "usages": ["signing", "authentication"],
                "groups": ["system:bootstrappers:kubeadm:default-node-token"]}],
            "nodeRegistration": self.registration(site, version, address),
        });
        if let Some(address) = address {
            init["localAPIEndpoint"] = json!({"advertiseAddress": address.to_string()});
        }
        let settings = &site.settings;
        let mut cluster = json!({
            "apiVersion": api.as_str(), "kind": "ClusterConfiguration",
            "kubernetesVersion": text,
            "networking": {"podSubnet": settings.pod_cidr.as_deref().unwrap_or(POD_CIDR)},
        });
        if let Some(services) = &settings.service_cidr {
            cluster["networking"]["serviceSubnet"] = json!(services);
        }
        if !settings.tls_sans.is_empty() {
            cluster["apiServer"] = json!({"certSANs": settings.tls_sans});
        }
        // the runtime's driver on a machine with systemd; kubeadm's own default is another before 1.22
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "cgroupDriver": "systemd",
        });
        Ok(format!("{init}\n---\n{cluster}\n---\n{kubelet}\n"))
    }

    fn join_config(
        &self,
        site: &Site,
        text: &str,
        entry: &Entry,
        address: Option<IpAddr>,
    ) -> Result<Zeroizing<String>, Failure> {
        let version = Version::parse(text)?;
        let api = version.api();
        const PLACE: &str = "<token>";
        let token = Zeroizing::new(format!("{}.{}", entry.token.id, entry.token.secret.as_str()));
        let mut discovery = json!({"bootstrapToken": {
            "apiServerEndpoint": entry.server,
            "token": PLACE,
            "caCertHashes": [format!("sha256:{}", entry.token.authority_key_sha256)],
        }});
        let mut join = json!({
            "apiVersion": api.as_str(), "kind": "JoinConfiguration",
            "nodeRegistration": self.registration(site, version, address),
        });
        match api {
            Api::Beta1 | Api::Beta2 | Api::Beta3 => discovery["timeout"] = json!(DISCOVERY),
            Api::Beta4 => join["timeouts"] = json!({"discovery": DISCOVERY}),
        }
        join["discovery"] = discovery;
        // put in at the end, so that no copy of it is left in memory
        Ok(Zeroizing::new(join.to_string().replace(PLACE, &token)))
    }

    /// Writes what kubeadm reads, runs it, and removes the file whatever came of it.
    async fn with_config(
        &self,
        site: &Site,
        what: &str,
        config: Zeroizing<String>,
        tool: ToolCall,
    ) -> Result<Ran, Failure> {
        // also where this future is dropped in the middle
        let _removed = site.removed_at_the_end(CONFIG);
        site.disk(move |files| {
            files.folder(RUN_DIR, Mode::Secret)?;
            files.write(CONFIG, config.as_bytes(), Mode::Secret)
        })
        .await?;
        site.must(what, tool).await
    }

    /// kubeadm's own part of a reset; what it cannot do is seen by what is left.
    async fn reset_by_tool(&self, site: &Site) -> Result<(), Failure> {
        if !site.has_tool(KUBEADM) {
            return Ok(());
        }
        let version = self.installed(site).await.ok().flatten();
        let minor =
            version.and_then(|version| Version::parse(&version).ok()).map_or(LAST_ON_ARM, |version| version.minor);
        let socket = if minor >= 24 { format!("unix://{SOCKET}") } else { SOCKET.to_owned() };
        let words = ["reset".to_owned(), "--force".to_owned(), "--cri-socket".to_owned(), socket];
        match site.must("kubeadm reset", call(KUBEADM, words).within(RESET)).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(reason = %error.reason, "kubeadm reset failed; what it left is removed without it");
                Ok(())
            }
        }
    }

    /// Ends the pods, then whatever of them is left.
    async fn end_pods(&self, site: &Site) -> Result<(), Failure> {
        if site.has_tool(CRICTL) && is_active(site, RUNTIME).await? {
            let endpoint = format!("unix://{SOCKET}");
            let list = site
                .run(
                    call(CRICTL, ["--runtime-endpoint", &endpoint, "pods", "--quiet", "--state", "ready"])
                        .within(PODS_END),
                )
                .await;
            let pods: Vec<String> = match &list {
                Ok(list) => list.stdout.split_whitespace().map(str::to_owned).collect(),
                Err(_) => Vec::new(),
            };
            if !pods.is_empty() {
                let words = ["--runtime-endpoint".to_owned(), endpoint, "stopp".to_owned()].into_iter().chain(pods);
                // those that do not end in time are killed below
                if let Err(error) = site.run(call(CRICTL, words).within(PODS_END)).await {
                    tracing::warn!(reason = %error.reason, "pods did not end by themselves");
                }
            }
        }
        kill_shims(site, SHIMS).await?;
        unmount(site, VOLUMES).await.map(|_| ())
    }

    /// Until the kubelet has been up for a while.
    async fn wait_kubelet(&self, site: &Site) -> Result<(), Failure> {
        let until = Instant::now() + KUBELET_UP;
        loop {
            if is_active(site, UNIT).await? {
                pause(STEADY).await;
                if is_active(site, UNIT).await? {
                    return Ok(());
                }
            }
            if Instant::now() >= until {
                return Err(Failure::new(
                    "not-ready",
                    "the kubelet does not stay up; see `journalctl -u kubelet` on this Pi",
                ));
            }
            pause(LOOK_EVERY).await;
        }
    }

    /// The id of the running container of etcd.
    async fn etcd_container(&self, site: &Site) -> Result<String, Failure> {
        let endpoint = format!("unix://{SOCKET}");
        let words = ["--runtime-endpoint", &endpoint, "ps", "--quiet", "--state", "running", "--name", "^etcd$"];
        let list = site.must("looking for etcd", call(CRICTL, words).within(SHORT)).await?;
        let id = list.stdout.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
        id.ok_or_else(|| Failure::new("not-running", "etcd does not run on this Pi; start the engine first"))
    }
}

impl Distribution for Kubeadm {
    fn kind(&self) -> &'static str {
        "kubeadm"
    }

    fn left_overs(&self, files: &Files) -> Vec<String> {
        // what the packages bring along is empty folders; what a cluster brings is these
        let found = [
            "/etc/kubernetes/admin.conf",
            "/etc/kubernetes/kubelet.conf",
            "/etc/kubernetes/bootstrap-kubelet.conf",
            "/etc/kubernetes/pki/ca.crt",
            "/var/lib/kubelet/config.yaml",
            "/var/lib/kubelet/pki",
            "/var/lib/etcd/member",
            "/var/lib/cni/networks",
        ];
        let manifests = files.list(MANIFESTS).unwrap_or_default().into_iter().map(|name| format!("{MANIFESTS}/{name}"));
        found.into_iter().filter(|path| files.has(path)).map(str::to_owned).chain(manifests).collect()
    }

    fn resolve<'a>(&'a self, site: &'a Site, wanted: &'a str) -> BoxFuture<'a, Result<Text<32>, Failure>> {
        async move {
            let installed = self.installed(site).await?;
            let artefacts = site.settings.artefacts.display().to_string();
            let on_card = site.disk(move |files| versions(files, &artefacts, "kubeadm")).await?;
            let version = choose(self.kind(), wanted, installed, &on_card)?;
            let number = Version::parse(version.as_str())?;
            if number.minor > LAST_ON_ARM && site.arch == Arch::Arm {
                let why = format!("there is no kubeadm {version} for 32-bit ARM: 1.{LAST_ON_ARM} was the last");
                return Err(Failure::new("architecture", format!("{why}; take that, or k3s, or a 64-bit system")));
            }
            Ok(version)
        }
        .boxed()
    }

    fn form<'a>(
        &'a self,
        site: &'a Site,
        member: &'a Membership,
        attempt: Attempt,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            self.begin(site, member, attempt).await?;
            let address = address(site).await?;
            let config = Zeroizing::new(self.init_config(site, member.version(), address)?);
            let file = site.word(CONFIG);
            let init = call(KUBEADM, ["init", "--config", &file, "--skip-token-print"]).within(INIT);
            self.with_config(site, "kubeadm init", config, init).await?;
            wait_ready(site, self, READY).await
        }
        .boxed()
    }

    fn enter<'a>(
        &'a self,
        site: &'a Site,
        member: &'a Membership,
        entry: &'a Entry,
        attempt: Attempt,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            self.begin(site, member, attempt).await?;
            let address = address(site).await?;
            let config = self.join_config(site, member.version(), entry, address)?;
            let file = site.word(CONFIG);
            self.with_config(site, "kubeadm join", config, call(KUBEADM, ["join", "--config", &file]).within(JOIN))
                .await?;
            // it has waited for the kubelet's first word itself
            if is_active(site, UNIT).await? { Ok(()) } else { self.wait_kubelet(site).await }
        }
        .boxed()
    }

    fn runs<'a>(&'a self, site: &'a Site, _: ClusterPart) -> BoxFuture<'a, Result<EngineRun, Failure>> {
        async move { Ok(if is_active(site, UNIT).await? { EngineRun::Running } else { EngineRun::Stopped }) }.boxed()
    }

    fn start<'a>(&'a self, site: &'a Site, part: ClusterPart) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            systemctl(site, ["start", RUNTIME]).await?;
            systemctl(site, ["start", UNIT]).await?;
            match part {
                ClusterPart::ControlPlane => wait_ready(site, self, READY).await,
                ClusterPart::Worker => self.wait_kubelet(site).await,
            }
        }
        .boxed()
    }

    fn stop<'a>(&'a self, site: &'a Site, _: ClusterPart) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            // a start that was cut short may not have installed it yet
            if site.has_tool(KUBELET) {
                stop_unit(site, UNIT).await?;
            }
            self.end_pods(site).await
        }
        .boxed()
    }

    fn reset<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async move {
            if site.has_tool(KUBELET) {
                stop_unit(site, UNIT).await?;
                systemctl(site, ["disable", UNIT]).await?;
            } else {
                // its package was removed, perhaps while it ran; systemd may know the unit or not
                for verb in ["stop", "disable"] {
                    site.run(call(sweep::SYSTEMCTL, [verb, UNIT]).within(SHORT)).await?;
                }
            }
            // before kubeadm's own reset: that one empties the kubelet's folder even where a volume could not be unmounted
            self.end_pods(site).await?;
            self.reset_by_tool(site).await?;
            if site.has_tool(CRICTL) && is_active(site, RUNTIME).await? {
                let endpoint = format!("unix://{SOCKET}");
                let words = ["--runtime-endpoint", &endpoint, "rmp", "--all", "--force"];
                // a network add-on that asks an API server that is gone never lets go of its pods; they are dead by now
                if let Err(error) = site.must("removing pods", call(CRICTL, words).within(RESET)).await {
                    tracing::warn!(reason = %error.reason, "containerd keeps records of pods that are dead");
                }
            }
            let mut removed = sweep::network(site).await?;
            let files = site
                .disk(|files| {
                    let removed = sweep::folders(files, &FOLDERS)?;
                    for file in [DROP_IN, MODULES_FILE, SYSCTL_FILE, CONFIG] {
                        files.remove_file(file)?;
                    }
                    Ok(removed)
                })
                .await?;
            removed.extend(files);
            systemctl(site, ["daemon-reload"]).await?;
            Ok(removed)
        }
        .boxed()
    }

    fn snapshot<'a>(&'a self, site: &'a Site, into: String) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            // etcd's own copy is consistent while it runs; its container sees this folder, and has etcdctl of its own version
            const COPIED: &str = "/var/lib/etcd/beehive-snapshot.db";
            let container = self.etcd_container(site).await?;
            site.disk(|files| files.remove_file(COPIED)).await?;
            let endpoint = format!("unix://{SOCKET}");
            let words = [
                "--runtime-endpoint",
                &endpoint,
                "exec",
                &container,
                "etcdctl",
                "--endpoints=https://127.0.0.1:2379",
                "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
                "--cert=/etc/kubernetes/pki/etcd/server.crt",
                "--key=/etc/kubernetes/pki/etcd/server.key",
                "snapshot",
                "save",
                COPIED,
            ];
            site.must("copying etcd", call(CRICTL, words).within(COPY)).await?;
            site.disk(move |files| {
                files.copy(COPIED, format!("{into}/etcd.db"), Mode::Secret, None)?;
                files.remove_file(COPIED)?;
                // the keys belong to it: service accounts and secrets are of no use without
                copy_tree(files, "/etc/kubernetes/pki", &format!("{into}/pki"))
            })
            .await
        }
        .boxed()
    }

    fn restore<'a>(&'a self, site: &'a Site, from: String) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            // below its own folder, which may be a disk of its own
            const PLACE: &str = "/var/lib/etcd/beehive-restore";
            let etcd = site.disk(|files| Etcd::of(&files.text(format!("{MANIFESTS}/etcd.yaml"))?)).await?;
            self.stop(site, ClusterPart::ControlPlane).await?;
            systemctl(site, ["start", RUNTIME]).await?;
            site.disk(move |files| {
                files.remove_tree(PLACE)?;
                files.folder(PLACE, Mode::Secret)?;
                files.copy(format!("{from}/etcd.db"), format!("{PLACE}/etcd.db"), Mode::Secret, None)
            })
            .await?;
            let mount = format!("type=bind,src={},dst=/restore,options=rbind:rw", site.word(PLACE));
            // etcdutl is there from 3.5 on, and etcdctl no longer does it from 3.6 on
            let mut last = None;
            for program in ["etcdutl", "etcdctl"] {
                let words = [
                    "--namespace",
                    "k8s.io",
                    "run",
                    "--rm",
                    "--mount",
                    &mount,
                    &etcd.image,
                    "beehive-etcd-restore",
                    program,
                    "snapshot",
                    "restore",
                    "/restore/etcd.db",
                    "--data-dir",
                    "/restore/data",
                    "--name",
                    &etcd.name,
                    "--initial-cluster",
                    &etcd.initial_cluster,
                    "--initial-advertise-peer-urls",
                    &etcd.peer,
                ];
                let ran = site.run(call(CTR, words).within(COPY)).await?;
                let good = ran.succeeded();
                last = Some(ran);
                if good {
                    break;
                }
            }
            if let Some(ran) = last.filter(|ran| !ran.succeeded()) {
                return Err(site.failed("putting etcd's copy back", CTR, &ran));
            }
            site.disk(|files| {
                files.remove_tree("/var/lib/etcd/member")?;
                files.rename(format!("{PLACE}/data/member"), "/var/lib/etcd/member")?;
                files.remove_tree(PLACE)
            })
            .await?;
            self.start(site, ClusterPart::ControlPlane).await
        }
        .boxed()
    }

    fn may_upgrade(&self, member: &Membership, to: &str) -> Result<(), Failure> {
        let (old, new) = (Version::parse(member.version())?, Version::parse(to)?);
        if old.major != new.major || new.minor > old.minor + 1 || new < old {
            let from = &member.version;
            return Err(Failure::new(
                "version-skew",
                format!(
                    "kubeadm goes from {from} to the same or the next minor version, not to {to}; go step by step, or rebuild"
                ),
            ));
        }
        Ok(())
    }

    fn upgrade<'a>(
        &'a self,
        site: &'a Site,
        member: &'a Membership,
        to: &'a str,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            if !is_active(site, UNIT).await? {
                self.start(site, member.part).await?;
            }
            self.import(site, to).await?;
            if self.installed(site).await?.as_deref() != Some(to) {
                self.install(site, to, &["kubeadm"]).await?;
            }
            match member.part {
                ClusterPart::ControlPlane => {
                    wait_ready(site, self, READY).await?;
                    site.must(
                        "kubeadm upgrade apply",
                        call(KUBEADM, ["upgrade", "apply", "--yes", to]).within(UPGRADE),
                    )
                    .await?;
                }
                ClusterPart::Worker => {
                    site.must("kubeadm upgrade node", call(KUBEADM, ["upgrade", "node"]).within(UPGRADE)).await?;
                }
            }
            let release = Release::of(site, self.kind(), to, LISTS);
            if site.has(&release.folder) {
                self.install(site, to, &["kubernetes-cni", "cri-tools", "kubelet", "kubectl"]).await?;
            }
            systemctl(site, ["daemon-reload"]).await?;
            systemctl(site, ["restart", UNIT]).await?;
            self.start(site, member.part).await
        }
        .boxed()
    }

    fn authority(&self) -> &'static str {
        AUTHORITY
    }

    fn kubeconfig(&self) -> &'static str {
        ADMIN
    }

    fn kubectl(&self, site: &Site, words: &[&str]) -> ToolCall {
        let admin = site.word(ADMIN);
        call(KUBECTL, ["--kubeconfig", admin.as_str()].iter().chain(words).copied())
    }

    fn pull(&self, image: &str) -> ToolCall {
        call(CRICTL, ["--runtime-endpoint", &format!("unix://{SOCKET}"), "pull", image])
    }
}

impl Kubeadm {
    /// What comes before `init` and `join`.
    async fn begin(&self, site: &Site, member: &Membership, attempt: Attempt) -> Result<(), Failure> {
        match attempt {
            Attempt::First => {}
            // both refuse a machine on which they began
            Attempt::Again => drop(self.reset(site).await?),
        }
        self.prepare(site, member.version()).await
    }
}

/// What etcd's manifest says, as kubeadm writes it.
struct Etcd {
    image: String,
    name: String,
    initial_cluster: String,
    peer: String,
}

impl Etcd {
    fn of(manifest: &str) -> Result<Self, Failure> {
        let flag = |name: &str| {
            manifest
                .lines()
                .find_map(|line| line.trim().trim_start_matches("- ").strip_prefix(&format!("--{name}=")))
                .map(str::to_owned)
        };
        let image = manifest.lines().find_map(|line| line.trim().strip_prefix("image: ")).map(str::to_owned);
        match (image, flag("name"), flag("initial-cluster"), flag("initial-advertise-peer-urls")) {
            (Some(image), Some(name), Some(initial_cluster), Some(peer)) => {
                Ok(Self { image, name, initial_cluster, peer })
            }
            _ => Err(Failure::new(
                "no-state",
                format!("{MANIFESTS}/etcd.yaml is not as kubeadm writes it; is the control plane on this Pi?"),
            )),
        }
    }
}

/// Debian's word for the processor.
fn debian(arch: Arch) -> &'static str {
    match arch {
        Arch::Arm => "armhf",
        Arch::Arm64 | Arch::Amd64 | Arch::Other => arch.as_str(),
    }
}

/// Where a registry really is, where that is not its name.
fn upstream(registry: &str) -> &str {
    match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// The node's address, where the configuration decides it.
pub(super) async fn address(site: &Site) -> Result<Option<IpAddr>, Failure> {
    const IP: &str = "/usr/sbin/ip";
    if let Some(address) = site.settings.advertise_address {
        return Ok(Some(address));
    }
    let Some(interface) = &site.settings.interface else { return Ok(None) };
    // `2: eth0    inet 10.0.0.7/24 brd …`, one line an address
    let words = ["-oneline", "address", "show", "dev", interface, "scope", "global"];
    let ran = site.must("asking for the address", call(IP, words).within(SHORT)).await?;
    let of = |family: &str| {
        ran.stdout.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != family).skip(1);
            words.next()?.split('/').next()?.parse::<IpAddr>().ok()
        })
    };
    of("inet").or_else(|| of("inet6")).map(Some).ok_or_else(|| {
        Failure::new("no-address", format!("{interface} has no address; check interface in [engine], and the cable"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Config;
    use crate::engine::Ground;
    use crate::engine::tests::Nothing;
    use crate::engine::token::BootstrapToken;
    use std::sync::Arc;

    fn site(settings: &str) -> (tempfile::TempDir, Site) {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(dir.path().join("var/lib")).unwrap();
        let text = format!("crew = \"c\"\nnode = \"c-007\"\nrole = \"node\"\n[engine]\nkind = \"kubeadm\"\n{settings}");
        let config = Config::parse_on(&text, "b", "c-007").unwrap();
        let site = Site::new(&config, Ground::below(dir.path(), Arc::new(Nothing))).unwrap();
        (dir, site)
    }

    fn entry() -> Entry {
        let token = BootstrapToken {
            id: "abc123".into(),
            secret: Zeroizing::new("0123456789abcdef".into()),
            authority_pem_sha256: "a".repeat(64),
            authority_key_sha256: "b".repeat(64),
        };
        Entry { server: "10.0.0.1:6443".into(), token }
    }

    /// kubernetes.io, "kubeadm Configuration": which version of the format has what, and where.
    #[test]
    fn each_kubeadm_gets_the_format_that_it_reads() {
        let (_dir, site) =
            site("kubelet_args = [\"max-pods=40\"]\nlabels = [\"a=b\", \"c=d\"]\ntaints = [\"x=y:NoExecute\"]");
        for (version, api) in [
            ("v1.14.9", "v1beta1"),
            ("v1.15.0", "v1beta2"),
            ("v1.21.9", "v1beta2"),
            ("v1.22.0", "v1beta3"),
            ("v1.30.4", "v1beta3"),
            ("v1.31.0", "v1beta4"),
        ] {
            let text = Kubeadm.join_config(&site, version, &entry(), Some("10.0.0.7".parse().unwrap())).unwrap();
            let join: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(join["apiVersion"], format!("kubeadm.k8s.io/{api}"));
            assert_eq!(join["discovery"]["bootstrapToken"]["token"], "abc123.0123456789abcdef");
            assert_eq!(join["discovery"]["bootstrapToken"]["caCertHashes"][0], format!("sha256:{}", "b".repeat(64)));
            let node = &join["nodeRegistration"];
            assert_eq!(node["taints"][0], json!({"key": "x", "value": "y", "effect": "NoExecute"}));
            if api == "v1beta4" {
                assert_eq!(join["timeouts"]["discovery"], DISCOVERY);
                assert_eq!(node["kubeletExtraArgs"][2], json!({"name": "node-labels", "value": "a=b,c=d"}));
            } else {
                assert_eq!(join["discovery"]["timeout"], DISCOVERY);
                let flags = json!({"max-pods": "40", "node-ip": "10.0.0.7", "node-labels": "a=b,c=d"});
                assert_eq!(node["kubeletExtraArgs"], flags);
            }
            let new = version > "v1.24";
            assert_eq!(node["criSocket"].as_str().unwrap().starts_with("unix://"), new, "{version}");
        }
    }

    #[test]
    fn a_control_plane_without_taints_keeps_kubeadms_own() {
        let (_dir, site) = site("tls_sans = [\"crew.local\"]\nservice_cidr = \"10.51.0.0/16\"");
        let text = Kubeadm.init_config(&site, "v1.26.15", None).unwrap();
        let parts: Vec<Value> = text.split("\n---\n").map(|part| serde_json::from_str(part).unwrap()).collect();
        assert!(parts[0]["nodeRegistration"].get("taints").is_none());
        assert!(parts[0].get("localAPIEndpoint").is_none());
        assert_eq!(parts[1]["networking"], json!({"podSubnet": POD_CIDR, "serviceSubnet": "10.51.0.0/16"}));
        assert_eq!(parts[1]["apiServer"]["certSANs"][0], "crew.local");
        assert_eq!(parts[2]["cgroupDriver"], "systemd");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("v1.9.11") < version("v1.26.15") && version("1.26.2") < version("v1.26.15"));
        assert_eq!(version("v1.26.15-1.1"), version("v1.26.15"));
        for bad in ["", "v1", "v1.x.3", "latest"] {
            assert_eq!(Version::parse(bad).unwrap_err().code, "bad-version");
        }
    }
}
