//! k3s: all of Kubernetes in one binary, for 32-bit and 64-bit ARM and for x86. The engine for Pis.
//!
//! Sources: k3s' `install.sh` (units, `k3s-killall.sh`, the uninstall script; what it installs is installed here without it, so
//! that no network is needed), docs.k3s.io ("Air-Gap Install", "Configuration File", "Private Registry Configuration", "k3s token",
//! "Backup and Restore", "Managing Packaged Components"), k3s' ADR "Support kubeadm-style Bootstrap Token Secrets". In short:
//! - Everything goes in by `config.yaml`, readable for root alone; the token lies in a file of its own that it names. JSON is YAML.
//! - An agent needs the token for its first start; later it shows its own certificate, until its Node is deleted.
//! - A unit with `KillMode=process` leaves its containers running: they are killed here, or a power-off waits 90 s for them.
//! - With SQLite a copy of `server/db` and `server/token` together is a backup, while nothing writes.
//! - What the uninstall script leaves, `/etc/rancher/node/password`, makes the cluster refuse a Pi that comes back.

use std::time::Duration;

use beehive_mqtt::Text;
use beehive_mqtt::node::EngineRun;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::artefacts::{Release, choose, versions};
use super::kubeadm::address;
use super::lifecycle::{Attempt, ClusterPart, Distribution, Entry, LOOK_EVERY, Membership, wait_ready};
use super::site::{Arch, Change, Failure, Files, Mode, Site, diagnose, hex, pause};
use super::snapshot::copy_tree;
use super::sweep::{self, call, is_active, kill_shims, stop_unit, systemctl, unmount};
use super::tool::ToolCall;
use crate::doctor::Minor;

const K3S_BIN: &str = "/usr/local/bin/k3s";
/// The binary before an upgrade; the way back by hand.
const PREVIOUS: &str = "/usr/local/bin/k3s.previous";
const JOURNALCTL: &str = "/usr/bin/journalctl";
const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
const REGISTRIES: &str = "/etc/rancher/k3s/registries.yaml";
/// Ours, named by the configuration: the server's own token, or what an agent joined with.
const TOKEN: &str = "/etc/rancher/k3s/beehive-token";
const ADMIN: &str = "/etc/rancher/k3s/k3s.yaml";
const AUTHORITY: &str = "/var/lib/rancher/k3s/server/tls/server-ca.crt";
const SERVER: &str = "/var/lib/rancher/k3s/server";
const IMAGES: &str = "/var/lib/rancher/k3s/agent/images";
const UNITS: [&str; 2] = ["k3s.service", "k3s-agent.service"];
const SYSTEM: &str = "/etc/systemd/system";
/// As the killall script finds them.
const SHIMS: &[&str] = &["/var/lib/rancher/k3s/data/", "/bin/containerd-shim"];
/// What it unmounts.
const MOUNTS: &[&str] = &["/run/k3s", "/var/lib/kubelet/pods", "/var/lib/kubelet/plugins", "/run/netns/cni-"];
const FOLDERS: [&str; 7] = [
    "/etc/rancher/k3s",
    "/etc/rancher/node",
    "/run/k3s",
    "/run/flannel",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/lib/rancher/k3s",
];

/// A first start unpacks the binary's contents and fills a database on the card. k3s-ansible needed 77 s on armhf Pis for a whole
/// cluster; a slow card takes 9 s for a write.
const READY: Duration = Duration::from_secs(600);
/// An agent's first start unpacks as well, and imports the images.
/// The command that waits for it has five minutes, and its reason is wanted before they are over.
const JOIN: Duration = Duration::from_secs(270);
const SHORT: Duration = Duration::from_secs(30);
/// `k3s --version` unpacks nothing, but reads 60 MB from the card.
const VERSION: Duration = Duration::from_secs(60);
/// Where the agent keeps failing for a reason that waiting does not mend, its journal says so; looking costs a second.
const READ_JOURNAL_EVERY: u32 = 10;
/// What waiting does not mend.
const IN_VAIN: [&str; 5] = ["bad-credential", "wrong-authority", "duplicate-name", "other-token", "cgroup"];

/// The engine.
pub(super) struct K3s;

impl K3s {
    async fn installed(&self, site: &Site) -> Result<Option<String>, Failure> {
        if !site.has_tool(K3S_BIN) {
            return Ok(None);
        }
        // `k3s version v1.30.2+k3s1 (faeb0a9)`
        let ran = site.run(call(K3S_BIN, ["--version"]).within(VERSION)).await?;
        let version = ran.stdout.lines().next().and_then(|line| line.strip_prefix("k3s version ")?.split(' ').next());
        // a binary that a cut left in pieces has none, and is replaced
        Ok(version.filter(|_| ran.succeeded()).map(str::to_owned))
    }

    /// The binary of this version, its images, and where images come from.
    async fn prepare(&self, site: &Site, version: &str) -> Result<(), Failure> {
        if self.installed(site).await?.as_deref() != Some(version) {
            self.install(site, version).await?;
        }
        self.images(site, version).await?;
        let mirrors = site.settings.mirrors.clone();
        site.disk(move |files| {
            if mirrors.is_empty() {
                return files.remove_file(REGISTRIES);
            }
            let mirrors: Value = mirrors
                .iter()
                .map(|(registry, endpoints)| (registry.clone(), json!({"endpoint": endpoints})))
                .collect();
            files.write(REGISTRIES, json!({"mirrors": mirrors}).to_string().as_bytes(), Mode::Secret)
        })
        .await
        .map(|_| ())
    }

    /// Copies the binary from the card, and keeps the one before.
    async fn install(&self, site: &Site, version: &str) -> Result<(), Failure> {
        let (name, lists) = names(site.arch)?;
        let release = Release::of(site, self.kind(), version, lists);
        site.disk(move |files| {
            let hash = release.hash(files, name)?;
            if files.has(K3S_BIN) && files.sha256(K3S_BIN)?.as_ref() != Some(&hash) {
                files.copy(K3S_BIN, PREVIOUS, Mode::Program, None)?;
            }
            files.copy(release.path(name), K3S_BIN, Mode::Program, Some(&hash))
        })
        .await
    }

    /// Puts the images of this version where k3s imports them from, and takes those of another one away.
    async fn images(&self, site: &Site, version: &str) -> Result<(), Failure> {
        let (_, lists) = names(site.arch)?;
        let release = Release::of(site, self.kind(), version, lists);
        let stem = format!("k3s-airgap-images-{}.tar", site.arch.as_str());
        site.disk(move |files| {
            let on_card: Vec<String> =
                files.list(&release.folder)?.into_iter().filter(|name| name.starts_with(&stem)).collect();
            // without any on the card, those that somebody put there stay
            let Some(name) = on_card.first() else { return Ok(()) };
            let hash = release.hash(files, name)?;
            for old in files.list(IMAGES)? {
                if old.starts_with("k3s-airgap-images-") && old != *name {
                    files.remove_file(format!("{IMAGES}/{old}"))?;
                }
            }
            let place = format!("{IMAGES}/{name}");
            if files.sha256(&place)?.as_ref() != Some(&hash) {
                files.copy(release.path(name), &place, Mode::Secret, Some(&hash))?;
            }
            Ok(())
        })
        .await
    }

    /// What server and agent are told alike.
    async fn node_config(&self, site: &Site) -> Result<Value, Failure> {
        let settings = &site.settings;
        let list = |words: Vec<String>| Value::from(words);
        let mut config = json!({
            "node-name": site.node.as_str(),
            "token-file": site.word(TOKEN),
        });
        for (key, words) in [
            ("node-label", settings.labels.iter().map(ToString::to_string).collect::<Vec<_>>()),
            ("node-taint", settings.taints.iter().map(ToString::to_string).collect()),
            ("kubelet-arg", settings.kubelet_args.iter().map(ToString::to_string).collect()),
        ] {
            if !words.is_empty() {
                config[key] = list(words);
            }
        }
        if let Some(address) = address(site).await? {
            config["node-ip"] = json!(address.to_string());
        }
        if let Some(interface) = &settings.interface {
            config["flannel-iface"] = json!(interface);
        }
        Ok(config)
    }

    async fn server_config(&self, site: &Site) -> Result<Value, Failure> {
        let mut config = self.node_config(site).await?;
        let settings = &site.settings;
        config["write-kubeconfig-mode"] = json!("0600");
        if let Some(address) = config.get("node-ip").cloned() {
            config["advertise-address"] = address;
        }
        for (key, words) in [("tls-san", &settings.tls_sans), ("disable", &settings.disable)] {
            if !words.is_empty() {
                config[key] = json!(words);
            }
        }
        for (key, range) in [("cluster-cidr", &settings.pod_cidr), ("service-cidr", &settings.service_cidr)] {
            if let Some(range) = range {
                config[key] = json!(range);
            }
        }
        Ok(config)
    }

    /// Writes configuration and unit, and lets systemd know.
    async fn put(&self, site: &Site, part: ClusterPart, config: Value) -> Result<(), Failure> {
        let unit = unit(part);
        let changed = site
            .disk(move |files| {
                files.write(CONFIG, config.to_string().as_bytes(), Mode::Secret)?;
                // for the operator's own words, such as a proxy's
                let environment = format!("{SYSTEM}/{unit}.env");
                if !files.has(&environment) {
                    files.write(&environment, b"# read by k3s; by beehive\n", Mode::Secret)?;
                }
                files.write(format!("{SYSTEM}/{unit}"), unit_file(part).as_bytes(), Mode::Public)
            })
            .await?;
        match changed {
            Change::Made => systemctl(site, ["daemon-reload"]).await?,
            Change::None => {}
        }
        systemctl(site, ["enable", unit]).await
    }

    /// Starts the unit without waiting for it: what it waits for itself, the network or a server, may never come.
    async fn launch(&self, site: &Site, part: ClusterPart, verb: &'static str) -> Result<Journal, Failure> {
        let journal = Journal::here(site, unit(part)).await?;
        systemctl(site, [verb, "--no-block", unit(part)]).await?;
        Ok(journal)
    }

    /// Until systemd says that it is active (`Type=notify`: a server then serves, an agent has its certificates and its kubelet
    /// runs), and a server says so itself. systemd's word costs nothing, a `kubectl` a second of a Pi that is busy starting.
    async fn wait(&self, site: &Site, part: ClusterPart, journal: &Journal) -> Result<(), Failure> {
        let within = match part {
            ClusterPart::ControlPlane => READY,
            ClusterPart::Worker => JOIN,
        };
        let until = Instant::now() + within;
        let mut looks: u32 = 0;
        while !is_active(site, unit(part)).await? {
            looks += 1;
            let late = Instant::now() >= until;
            if late || looks % READ_JOURNAL_EVERY == 0 {
                let said = site.bare(&journal.read(site).await?);
                let known = diagnose(&said);
                if late || known.is_some_and(|(code, _)| IN_VAIN.contains(&code)) {
                    let (code, advice) =
                        known.unwrap_or(("not-ready", "its time is over; see `journalctl` on this Pi"));
                    let unit = unit(part);
                    let reason = format!("{unit} does not come up: {advice}; it said: {}", site.report(unit, &said));
                    return Err(Failure::new(code, reason));
                }
            }
            pause(LOOK_EVERY).await;
        }
        match part {
            ClusterPart::ControlPlane => {
                wait_ready(site, self, until.saturating_duration_since(Instant::now()).max(SHORT)).await
            }
            ClusterPart::Worker => Ok(()),
        }
    }
}

/// What a unit says from some moment on: an earlier attempt's complaints are not this one's.
struct Journal {
    unit: &'static str,
    cursor: Option<String>,
}

impl Journal {
    async fn here(site: &Site, unit: &'static str) -> Result<Self, Failure> {
        let words = ["--unit", unit, "--lines", "0", "--show-cursor", "--no-pager", "--quiet"];
        let ran = site.run(call(JOURNALCTL, words).within(SHORT)).await?;
        let cursor =
            ran.stdout.lines().find_map(|line| line.strip_prefix("-- cursor: ")).map(|cursor| cursor.trim().to_owned());
        Ok(Self { unit, cursor })
    }

    async fn read(&self, site: &Site) -> Result<String, Failure> {
        let mut words = vec!["--unit", self.unit, "--lines", "40", "--no-pager", "--quiet", "--output", "cat"];
        let after = self.cursor.as_ref().map(|cursor| format!("--after-cursor={cursor}"));
        words.extend(after.as_deref());
        Ok(site.run(call(JOURNALCTL, words).within(SHORT)).await?.stdout)
    }
}

impl Distribution for K3s {
    fn kind(&self) -> &'static str {
        "k3s"
    }

    fn left_overs(&self, files: &Files) -> Vec<String> {
        let units = UNITS.iter().map(|unit| format!("{SYSTEM}/{unit}"));
        let found = [
            CONFIG,
            TOKEN,
            ADMIN,
            "/etc/rancher/node/password",
            "/var/lib/rancher/k3s/server/token",
            "/var/lib/rancher/k3s/server/db",
            "/var/lib/rancher/k3s/agent/containerd",
            "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
        ];
        units.chain(found.into_iter().map(str::to_owned)).filter(|path| files.has(path)).collect()
    }

    fn resolve<'a>(&'a self, site: &'a Site, wanted: &'a str) -> BoxFuture<'a, Result<Text<32>, Failure>> {
        async move {
            let (name, lists) = names(site.arch)?;
            let installed = self.installed(site).await?;
            let artefacts = site.settings.artefacts.display().to_string();
            let on_card = site.disk(move |files| versions(files, &artefacts, "k3s")).await?;
            let version = choose(self.kind(), wanted, installed, &on_card)?;
            // said now, before anything is changed
            let release = Release::of(site, self.kind(), version.as_str(), lists);
            if on_card.iter().any(|there| there == version.as_str()) {
                site.disk(move |files| release.hash(files, name)).await?;
            }
            Ok(version)
        }
        .boxed()
    }

    fn form<'a>(&'a self, site: &'a Site, member: &'a Membership, _: Attempt) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            self.prepare(site, member.version()).await?;
            let config = self.server_config(site).await?;
            // one that is there already is what the database was made with
            let token = match site.disk(|files| files.text(TOKEN)).await? {
                token if token.trim().is_empty() => fresh_token()?,
                token => token,
            };
            site.hide(token.trim());
            site.disk(move |files| files.write(TOKEN, token.as_bytes(), Mode::Secret)).await?;
            self.put(site, ClusterPart::ControlPlane, config).await?;
            let journal = self.launch(site, ClusterPart::ControlPlane, "restart").await?;
            self.wait(site, ClusterPart::ControlPlane, &journal).await
        }
        .boxed()
    }

    fn enter<'a>(
        &'a self,
        site: &'a Site,
        member: &'a Membership,
        entry: &'a Entry,
        _: Attempt,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            self.prepare(site, member.version()).await?;
            let mut config = self.node_config(site).await?;
            config["server"] = json!(format!("https://{}", entry.server));
            let token = Zeroizing::new(format!(
                "K10{}::{}.{}",
                entry.token.authority_pem_sha256,
                entry.token.id,
                entry.token.secret.as_str()
            ));
            site.hide(&token);
            site.disk(move |files| files.write(TOKEN, token.as_bytes(), Mode::Secret)).await?;
            self.put(site, ClusterPart::Worker, config).await?;
            let journal = self.launch(site, ClusterPart::Worker, "restart").await?;
            self.wait(site, ClusterPart::Worker, &journal).await
        }
        .boxed()
    }

    fn runs<'a>(&'a self, site: &'a Site, part: ClusterPart) -> BoxFuture<'a, Result<EngineRun, Failure>> {
        async move { Ok(if is_active(site, unit(part)).await? { EngineRun::Running } else { EngineRun::Stopped }) }
            .boxed()
    }

    fn start<'a>(&'a self, site: &'a Site, part: ClusterPart) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let journal = self.launch(site, part, "start").await?;
            self.wait(site, part, &journal).await
        }
        .boxed()
    }

    fn stop<'a>(&'a self, site: &'a Site, part: ClusterPart) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            // a start that was cut short may not have made its unit yet
            if site.has(&format!("{SYSTEM}/{}", unit(part))) {
                stop_unit(site, unit(part)).await?;
            }
            kill_shims(site, SHIMS).await?;
            unmount(site, MOUNTS).await.map(|_| ())
        }
        .boxed()
    }

    fn reset<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async move {
            for unit in UNITS {
                // a unit that systemd does not know is none that runs
                if is_active(site, unit).await? || site.has(&format!("{SYSTEM}/{unit}")) {
                    stop_unit(site, unit).await?;
                    systemctl(site, ["disable", unit]).await?;
                }
            }
            kill_shims(site, SHIMS).await?;
            unmount(site, MOUNTS).await?;
            let mut removed = sweep::network(site).await?;
            let files = site
                .disk(|files| {
                    let mut removed = sweep::folders(files, &FOLDERS)?;
                    for folder in ["/etc/rancher", "/var/lib/rancher"] {
                        if files.has(folder) && files.list(folder)?.is_empty() {
                            files.remove_tree(folder)?;
                        }
                    }
                    // last: while a unit is there, a reset that was cut short has something to find
                    for unit in UNITS {
                        let wanted = format!("{SYSTEM}/multi-user.target.wants/{unit}");
                        for file in [wanted, format!("{SYSTEM}/{unit}.env"), format!("{SYSTEM}/{unit}")] {
                            if files.remove_file(&file)? == Change::Made {
                                removed.push(file);
                            }
                        }
                    }
                    Ok(removed)
                })
                .await?;
            removed.extend(files);
            systemctl(site, ["daemon-reload"]).await?;
            for unit in UNITS {
                site.run(call(sweep::SYSTEMCTL, ["reset-failed", unit]).within(SHORT)).await?;
            }
            Ok(removed)
        }
        .boxed()
    }

    fn snapshot<'a>(&'a self, site: &'a Site, into: String) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            // SQLite is copied while nothing writes; the containers go on without their engine
            stop_unit(site, unit(ClusterPart::ControlPlane)).await?;
            site.disk(move |files| {
                copy_tree(files, &format!("{SERVER}/db"), &format!("{into}/db"))?;
                files.copy(format!("{SERVER}/token"), format!("{into}/token"), Mode::Secret, None)
            })
            .await
        }
        .boxed()
    }

    fn restore<'a>(&'a self, site: &'a Site, from: String) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            self.stop(site, ClusterPart::ControlPlane).await?;
            site.disk(move |files| {
                let fresh = format!("{SERVER}/db.beehive-new");
                files.remove_tree(&fresh)?;
                copy_tree(files, &format!("{from}/db"), &fresh)?;
                files.remove_tree(format!("{SERVER}/db"))?;
                files.rename(&fresh, format!("{SERVER}/db"))?;
                files.copy(format!("{from}/token"), format!("{SERVER}/token"), Mode::Secret, None)
            })
            .await?;
            self.start(site, ClusterPart::ControlPlane).await
        }
        .boxed()
    }

    fn may_upgrade(&self, member: &Membership, to: &str) -> Result<(), Failure> {
        if member.part == ClusterPart::ControlPlane && !follows(member.version(), to) {
            let from = &member.version;
            return Err(Failure::new(
                "version-skew",
                format!(
                    "a k3s server goes from {from} to the same or the next minor version, not to {to}; go step by step, or rebuild"
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
            stop_unit(site, unit(member.part)).await?;
            self.prepare(site, to).await?;
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
        call(K3S_BIN, ["kubectl", "--kubeconfig", admin.as_str()].iter().chain(words).copied())
    }

    fn pull(&self, image: &str) -> ToolCall {
        call(K3S_BIN, ["crictl", "pull", image])
    }
}

fn unit(part: ClusterPart) -> &'static str {
    match part {
        ClusterPart::ControlPlane => "k3s.service",
        ClusterPart::Worker => "k3s-agent.service",
    }
}

/// The binary's name in a release, and its list of hashes.
fn names(arch: Arch) -> Result<(&'static str, &'static [&'static str]), Failure> {
    match arch {
        Arch::Arm => Ok(("k3s-armhf", &["sha256sum-arm.txt"])),
        Arch::Arm64 => Ok(("k3s-arm64", &["sha256sum-arm64.txt"])),
        Arch::Amd64 => Ok(("k3s", &["sha256sum-amd64.txt"])),
        Arch::Other => {
            let arch = arch.as_str();
            Err(Failure::new(
                "architecture",
                format!("k3s is not made for {arch} here; take a Pi, or a PC with x86-64"),
            ))
        }
    }
}

/// Whether an upgrade may go so: the same minor version or the next (docs.k3s.io, "Upgrades": do not skip one).
fn follows(from: &str, to: &str) -> bool {
    match (Minor::parse(from), Minor::parse(to)) {
        (Some(from), Some(to)) => from.major == to.major && (to.minor == from.minor || to.minor == from.minor + 1),
        (None, _) | (_, None) => false,
    }
}

/// The server's token: what the cluster's own secrets are encrypted with.
fn fresh_token() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| Failure::new("random", format!("the kernel gives no random numbers: {error}")))?;
    Ok(Zeroizing::new(hex(bytes.as_slice())))
}

/// The unit, with what k3s' own installation says in it.
fn unit_file(part: ClusterPart) -> String {
    let (unit, verb, of) = match part {
        ClusterPart::ControlPlane => (unit(part), "server", "server"),
        ClusterPart::Worker => (unit(part), "agent", "agent"),
    };
    format!(
        "# by beehive, with the settings of k3s' own installation
[Unit]
Description=k3s {of}
Documentation=https://docs.k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-{SYSTEM}/{unit}.env
KillMode=process
Delegate=yes
User=root
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart={K3S_BIN} {verb} --config {CONFIG}
"
    )
}
