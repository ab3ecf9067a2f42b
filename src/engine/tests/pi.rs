//! A Pi for the engines: a folder with its files, and doubles of the programs that an engine runs. A double does to the files and
//! to the little machine here ([`World`]) what its documentation says that the program does, and notes each call.
//!
//! | double | its behaviour is taken from |
//! | --- | --- |
//! | `k3s`, `k3s.service`, `k3s-agent.service` | docs.k3s.io ("k3s token", "Cluster Datastore", "Architecture"), k3s' `install.sh`, its issues 802, 2400, 6054, its package `clientaccess` for what it says of a bad token |
//! | `kubeadm` | kubernetes.io, "kubeadm init / join / reset / upgrade"; 1.20.2 as tried for what `reset` leaves and for messages |
//! | `kubelet.service`, `containerd.service` | kubernetes.io, "Configuring each kubelet in your cluster using kubeadm" |
//! | `kubectl` | kubernetes.io, "kubectl apply", "kubectl get --raw" |
//! | `crictl`, `ctr` | cri-tools' and containerd's documentation of `pods`, `stopp`, `rmp`, `exec`, `images import`, `run` |
//! | `systemctl`, `journalctl` | systemctl(1), journalctl(1) |
//! | `ip`, `iptables-save`, `iptables-restore`, `ipvsadm`, `umount`, `kill` | their manual pages |
//! | `dpkg`, `apt-mark`, `modprobe`, `sysctl`, `swapoff` | their manual pages |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use beehive_cluster::kube::JoinCredential;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::super::site::{Arch, Gate, Ground, Preflight, hex};
use super::super::token::BootstrapToken;
use super::super::tool::{OUTPUT_BYTES, Ran, ToolCall, ToolError, Tools};
use super::super::{Engine, EngineError, open_on};
use crate::config::Config;
use crate::doctor::{self, Finding, Refusal, Subject};
use crate::store::{Disk, RealDisk};

pub(super) const TOKEN_ID: &str = "abc123";
pub(super) const TOKEN_SECRET: &str = "0123456789abcdef";
pub(super) const SERVER: &str = "10.0.0.1";

/// What happens at the Nth action: a call of a program, or a change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The program ends with 1, the change is refused.
    Fails,
    /// The program never ends, and changed nothing.
    Hangs,
    /// The program is ended at its deadline, and changed nothing. A file is not written.
    Late,
    /// The power goes, or the process is killed, before it happened.
    CutBefore,
    /// The same after it happened: nobody heard of it.
    CutAfter,
}

/// The machine: what is not in its files.
#[derive(Default)]
pub(super) struct World {
    pub(super) active: BTreeSet<String>,
    pub(super) enabled: BTreeSet<String>,
    pub(super) links: BTreeMap<String, Option<String>>,
    pub(super) namespaces: BTreeSet<String>,
    pub(super) rules: BTreeMap<&'static str, String>,
    pub(super) ipvs: bool,
    pub(super) mounts: Vec<String>,
    /// Mounts that cannot be unmounted, not even lazily.
    pub(super) busy: BTreeSet<String>,
    pub(super) processes: BTreeMap<u32, (u32, String)>,
    pub(super) swap: bool,
    pub(super) no_memory_cgroup: bool,
    pub(super) modules: BTreeSet<String>,
    /// Installed by dpkg.
    pub(super) packages: BTreeMap<String, String>,
    pub(super) pulled: Vec<String>,
    pub(super) imported: Vec<String>,
    /// What this Pi's API server has: ConfigMap and whatever was applied.
    pub(super) named: Option<String>,
    pub(super) applied: Vec<String>,
    /// The API server elsewhere.
    pub(super) tokens: BTreeSet<String>,
    pub(super) pem_sha256: String,
    pub(super) key_sha256: String,
    pub(super) members: BTreeSet<String>,
    journal: Vec<String>,
    next_process: u32,
}

struct Plan {
    actions: u32,
    at: Option<(u32, Fault)>,
    dead: bool,
    what: Vec<String>,
}

pub(super) struct Pi {
    dir: TempDir,
    pub(super) world: Mutex<World>,
    plan: Mutex<Plan>,
    /// The power went.
    died: Notify,
    /// A program hangs.
    hung: Notify,
    calls: Mutex<Vec<ToolCall>>,
    pub(super) arch: Mutex<Arch>,
    /// What a look at this Pi finds.
    pub(super) findings: Mutex<Vec<Finding>>,
    /// For what it was looked at.
    pub(super) looks: Mutex<Vec<Subject>>,
}

/// The look at this Pi before a join.
struct Look(Arc<Pi>);

impl Preflight for Look {
    fn look(&self, subject: &Subject) -> Result<Vec<Finding>, Refusal> {
        self.0.looks.lock().unwrap().push(subject.clone());
        doctor::judge(self.0.findings.lock().unwrap().clone())
    }
}

/// Before or after the deed.
enum Verdict {
    Go,
    Fail,
    Hang,
    Late,
    Dead,
    GoThenDie,
}

pub(super) fn text_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

impl Pi {
    /// A Pi with an empty card, programs of the system, and k3s' and kubeadm's releases among the artefacts.
    pub(super) fn new() -> Arc<Self> {
        // in memory where there is such a folder: what is written is synced each time
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let world = World {
            tokens: BTreeSet::from([format!("{TOKEN_ID}.{TOKEN_SECRET}")]),
            pem_sha256: "a".repeat(64),
            key_sha256: "b".repeat(64),
            swap: true,
            rules: BTreeMap::from([
                ("4", "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n".to_owned()),
                ("6", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n".to_owned()),
            ]),
            links: BTreeMap::from([("lo".to_owned(), None), ("eth0".to_owned(), None)]),
            active: BTreeSet::from(["ssh.service".to_owned()]),
            next_process: 1000,
            ..World::default()
        };
        let pi = Arc::new(Self {
            dir,
            world: Mutex::new(world),
            plan: Mutex::new(Plan { actions: 0, at: None, dead: false, what: Vec::new() }),
            died: Notify::new(),
            hung: Notify::new(),
            calls: Mutex::new(Vec::new()),
            arch: Mutex::new(Arch::Arm64),
            findings: Mutex::new(Vec::new()),
            looks: Mutex::new(Vec::new()),
        });
        for folder in ["/var/lib/kubelet", "/etc/systemd/system", "/etc/kubernetes", "/run", "/root", "/srv"] {
            fs::create_dir_all(pi.at(folder)).unwrap();
        }
        pi.put("/etc/ssh/sshd_config", "Port 22\n");
        pi.put("/srv/data/film", "not ours\n");
        pi.put("/etc/containerd/config.toml", "config_path = \"/etc/containerd/certs.d\"\n");
        pi.release(
            "k3s",
            "v1.30.2+k3s1",
            &[
                ("k3s-arm64", "k3s v1.30.2+k3s1"),
                ("k3s-armhf", "k3s v1.30.2+k3s1"),
                ("k3s", "k3s v1.30.2+k3s1"),
                ("k3s-airgap-images-arm64.tar.zst", "images 1.30"),
            ],
        );
        pi.release(
            "k3s",
            "v1.31.1+k3s1",
            &[("k3s-arm64", "k3s v1.31.1+k3s1"), ("k3s-airgap-images-arm64.tar.zst", "images 1.31")],
        );
        for version in ["v1.26.15", "v1.27.1"] {
            let debs: Vec<(String, String)> = ["kubeadm", "kubelet", "kubectl", "cri-tools"]
                .iter()
                .flat_map(|package| {
                    ["arm64", "armhf"]
                        .map(|arch| (format!("{package}_{version}_{arch}.deb"), format!("{package} {version} {arch}")))
                })
                .chain([("images-arm64.tar".to_owned(), format!("images {version}"))])
                .collect();
            let debs: Vec<(&str, &str)> = debs.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            pi.release("kubeadm", version, &debs);
        }
        pi.install("containerd");
        pi.boot();
        pi
    }

    fn release(&self, kind: &str, version: &str, files: &[(&str, &str)]) {
        let mut sums = String::new();
        for (name, text) in files {
            self.put(&format!("/usr/share/beehive/engine/{kind}/{version}/{name}"), text);
            sums.push_str(&format!("{}  {name}\n", text_of(text.as_bytes())));
        }
        let lists: &[&str] = if kind == "k3s" {
            &["sha256sum-arm.txt", "sha256sum-arm64.txt", "sha256sum-amd64.txt"]
        } else {
            &["SHA256SUMS"]
        };
        for list in lists {
            self.put(&format!("/usr/share/beehive/engine/{kind}/{version}/{list}"), &sums);
        }
    }

    /// As a package would.
    pub(super) fn install(&self, package: &str) {
        self.world.lock().unwrap().packages.insert(package.to_owned(), String::new());
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    pub(super) fn put(&self, path: &str, text: &str) {
        let place = self.at(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }

    pub(super) fn get(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at(path)).ok()
    }

    pub(super) fn has_file(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    pub(super) fn mode(&self, path: &str) -> u32 {
        self.at(path).metadata().unwrap().permissions().mode() & 0o7777
    }

    fn gone(&self, path: &str) {
        let place = self.at(path);
        if place.is_dir() {
            fs::remove_dir_all(place).unwrap();
        } else {
            let _ = fs::remove_file(place);
        }
    }

    /// Everything on the card and in the machine that a reset has to bring back, but for what is our own and what stays
    /// installed.
    pub(super) fn residue(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = format!("/{}", path.strip_prefix(self.dir.path()).unwrap().display());
                let ours = ["/var/lib/beehive-engine", "/run/beehive-engine", "/proc", "/usr"];
                if ours.iter().any(|ours| name.starts_with(ours)) {
                    continue;
                }
                // an empty folder that a package or ours made is not a trace of a cluster
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(name);
                }
            }
        }
        let world = self.world.lock().unwrap();
        found.extend(
            world.active.iter().filter(|unit| *unit != "containerd.service").map(|unit| format!("active {unit}")),
        );
        found.extend(
            world.enabled.iter().filter(|unit| *unit != "containerd.service").map(|unit| format!("enabled {unit}")),
        );
        found.extend(world.links.keys().map(|link| format!("link {link}")));
        found.extend(world.namespaces.iter().map(|space| format!("netns {space}")));
        found.extend(world.rules.values().flat_map(|rules| rules.lines()).map(|rule| format!("rule {rule}")));
        found.extend(world.mounts.iter().map(|mount| format!("mount {mount}")));
        found.extend(world.processes.values().map(|(_, command)| format!("process {command}")));
        if world.ipvs {
            found.insert("ipvs".to_owned());
        }
        found
    }

    /// The engine of this configuration, as after a start of its process.
    pub(super) fn open(self: &Arc<Self>, config: &Config) -> Result<Arc<dyn Engine>, EngineError> {
        let ground = Ground {
            root: self.dir.path().to_owned(),
            tools: Arc::new(Doubles(Arc::clone(self))),
            disk: Arc::new(Card(Arc::clone(self))),
            gate: Arc::new(Hand(Arc::clone(self))),
            arch: *self.arch.lock().unwrap(),
            preflight: Arc::new(Look(Arc::clone(self))),
        };
        open_on(config, ground)
    }

    /// Plans a fault at action `at`, counted from now on.
    pub(super) fn fault(&self, at: u32, fault: Fault) {
        *self.plan.lock().unwrap() = Plan { actions: 0, at: Some((at, fault)), dead: false, what: Vec::new() };
    }

    /// No faults any more; how many actions there were, and what the last ones were.
    pub(super) fn calm(&self) -> (u32, Vec<String>) {
        let mut plan = self.plan.lock().unwrap();
        let seen = (plan.actions, std::mem::take(&mut plan.what));
        *plan = Plan { actions: 0, at: None, dead: false, what: Vec::new() };
        seen
    }

    /// Whether the planned fault came.
    pub(super) fn struck(&self) -> bool {
        let plan = self.plan.lock().unwrap();
        plan.at.is_some_and(|(at, _)| plan.actions > at)
    }

    /// Resolves when a planned cut or hang came.
    pub(super) async fn interrupted(&self) {
        tokio::select! {
            () = self.died.notified() => {}
            () = self.hung.notified() => {}
        }
    }

    /// Power off and on: what is in memory is gone, and systemd starts what is enabled.
    pub(super) fn boot(&self) {
        let enabled = {
            let mut world = self.world.lock().unwrap();
            world.active = BTreeSet::from(["ssh.service".to_owned()]);
            world.links = BTreeMap::from([("lo".to_owned(), None), ("eth0".to_owned(), None)]);
            world.namespaces.clear();
            world.mounts.clear();
            world.processes.clear();
            world.ipvs = false;
            world.swap = true;
            world.modules.clear();
            world.rules = BTreeMap::from([
                ("4", "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n".to_owned()),
                ("6", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n".to_owned()),
            ]);
            world.enabled.clone()
        };
        self.gone("/run");
        fs::create_dir_all(self.at("/run")).unwrap();
        self.put("/proc/sys/kernel/random/boot_id", &uuid::Uuid::new_v4().to_string());
        self.show();
        if self.world.lock().unwrap().packages.contains_key("containerd") {
            self.world.lock().unwrap().enabled.insert("containerd.service".to_owned());
            self.start_unit("containerd.service");
        }
        for unit in enabled {
            self.start_unit(&unit);
        }
    }

    pub(super) fn calls(&self) -> Vec<ToolCall> {
        self.calls.lock().unwrap().clone()
    }

    /// As lines, with paths as on the Pi.
    pub(super) fn lines(&self) -> Vec<String> {
        let root = self.dir.path().display().to_string();
        self.calls().iter().map(|call| format!("{call:?}").replace(&root, "")).collect()
    }

    pub(super) fn forget_calls(&self) {
        self.calls.lock().unwrap().clear();
    }

    pub(super) fn credential(&self) -> JoinCredential {
        let world = self.world.lock().unwrap();
        self.credential_of(TOKEN_ID, TOKEN_SECRET, &world.pem_sha256, &world.key_sha256)
    }

    pub(super) fn credential_of(&self, id: &str, secret: &str, pem: &str, key: &str) -> JoinCredential {
        let token = BootstrapToken {
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            authority_pem_sha256: pem.to_owned(),
            authority_key_sha256: key.to_owned(),
        };
        token.credential().unwrap()
    }

    fn verdict(&self, what: String) -> Verdict {
        let mut plan = self.plan.lock().unwrap();
        if plan.dead {
            return Verdict::Dead;
        }
        let action = plan.actions;
        plan.actions += 1;
        plan.what.push(what);
        match plan.at {
            Some((at, fault)) if at == action => match fault {
                Fault::Fails => Verdict::Fail,
                Fault::Hangs => Verdict::Hang,
                Fault::Late => Verdict::Late,
                Fault::CutBefore => {
                    plan.dead = true;
                    self.died.notify_one();
                    Verdict::Dead
                }
                Fault::CutAfter => {
                    plan.dead = true;
                    Verdict::GoThenDie
                }
            },
            Some(_) | None => Verdict::Go,
        }
    }

    /// A change of a file.
    fn file_action<T>(&self, what: String, deed: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.verdict(what) {
            Verdict::Go => deed(),
            Verdict::Fail | Verdict::Late => Err(io::Error::from(io::ErrorKind::StorageFull)),
            // a file does not hang; it fails as one on a card that is gone
            Verdict::Hang => {
                self.hung.notify_one();
                Err(io::Error::other("no answer from the card"))
            }
            Verdict::Dead => Err(io::Error::other("no power")),
            Verdict::GoThenDie => {
                deed()?;
                self.died.notify_one();
                Err(io::Error::other("no power"))
            }
        }
    }

    /// Shows processes and mounts in `/proc`.
    fn show(&self) {
        let world = self.world.lock().unwrap();
        let mut mounts = "/dev/mmcblk0p2 / ext4 rw 0 0\nproc /proc proc rw 0 0\n".to_owned();
        for mount in &world.mounts {
            mounts.push_str(&format!("tmpfs {} tmpfs rw 0 0\n", mount.replace(' ', "\\040")));
        }
        self.put("/proc/self/mounts", &mounts);
        for entry in fs::read_dir(self.at("/proc")).unwrap() {
            let path = entry.unwrap().path();
            let number = path.file_name().unwrap().to_str().unwrap().parse::<u32>();
            if number.is_ok_and(|number| !world.processes.contains_key(&number)) {
                fs::remove_dir_all(path).unwrap();
            }
        }
        for (number, (parent, command)) in &world.processes {
            self.put(&format!("/proc/{number}/stat"), &format!("{number} (a) b) S {parent} 0 0\n"));
            self.put(&format!("/proc/{number}/cmdline"), &command.replace(' ', "\0"));
        }
    }

    fn spawn(&self, parent: u32, command: &str) -> u32 {
        let mut world = self.world.lock().unwrap();
        world.next_process += 1;
        let number = world.next_process;
        world.processes.insert(number, (parent, command.to_owned()));
        number
    }

    /// What pods of either distribution bring into the machine.
    fn pods(&self, shim: &str) {
        let shim = self.spawn(1, shim);
        self.spawn(shim, "/pause");
        self.spawn(shim, "sleep infinity");
        let mut world = self.world.lock().unwrap();
        world.namespaces.insert("cni-1".to_owned());
        world.links.insert("cni0".to_owned(), None);
        world.links.insert("flannel.1".to_owned(), None);
        world.links.insert("veth1a".to_owned(), Some("cni0".to_owned()));
        world.links.insert("veth2b".to_owned(), Some("cni0".to_owned()));
        let rules = world.rules.get_mut("4").unwrap();
        if !rules.contains("KUBE-") {
            *rules = rules.replace(
                "COMMIT",
                ":KUBE-SERVICES - [0:0]\n-A INPUT -j KUBE-SERVICES\n\
                 -A FORWARD -m comment --comment \"flanneld forward\" -j ACCEPT\n:CNI-HOSTPORT - [0:0]\nCOMMIT",
            );
        }
        for mount in ["/run/netns/cni-1", "/var/lib/kubelet/pods/1/volumes/token"] {
            if !world.mounts.iter().any(|there| there == mount) {
                world.mounts.push(mount.to_owned());
            }
        }
        drop(world);
        self.put("/var/lib/cni/networks/cbr0/10.42.0.2", "x");
        self.put("/run/flannel/subnet.env", "x");
        self.put("/run/netns/cni-1", "");
        self.put("/var/lib/kubelet/pods/1/volumes/token/token", "pod secret");
        self.show();
    }

    fn is_active(&self, unit: &str) -> bool {
        self.world.lock().unwrap().active.contains(unit)
    }

    /// What a unit's start does; whether it is active then.
    fn start_unit(&self, unit: &str) {
        if self.is_active(unit) {
            return;
        }
        let up = match unit {
            "containerd.service" => true,
            "kubelet.service" => self.start_kubelet(),
            "k3s.service" => self.start_k3s(),
            "k3s-agent.service" => self.start_agent(),
            _ => false,
        };
        if up {
            self.world.lock().unwrap().active.insert(unit.to_owned());
        }
    }

    fn start_kubelet(&self) -> bool {
        if !self.has_file("/var/lib/kubelet/config.yaml") || !self.has_file("/etc/kubernetes/kubelet.conf") {
            return false;
        }
        // a kubelet does not start while there is swap
        if self
            .get("/etc/systemd/system/kubelet.service.d/20-beehive.conf")
            .is_some_and(|text| text.contains("swapoff"))
        {
            self.world.lock().unwrap().swap = false;
        }
        if self.world.lock().unwrap().swap {
            return false;
        }
        self.pods("/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id 1");
        true
    }

    fn k3s_config(&self, unit: &str) -> Option<Value> {
        let unit = self.get(&format!("/etc/systemd/system/{unit}"))?;
        let binary = self.get("/usr/local/bin/k3s")?;
        if !unit.contains("ExecStart=/usr/local/bin/k3s ")
            || !unit.contains("KillMode=process")
            || !binary.starts_with("k3s v")
        {
            return None;
        }
        serde_json::from_str(&self.get("/etc/rancher/k3s/config.yaml")?).ok()
    }

    fn k3s_token(&self, config: &Value) -> Option<String> {
        let file = PathBuf::from(config["token-file"].as_str()?);
        assert!(file.starts_with(self.dir.path()), "a file on the Pi: {file:?}");
        assert_eq!(file.metadata().ok()?.permissions().mode() & 0o777, 0o600, "for root alone");
        Some(fs::read_to_string(file).ok()?.trim().to_owned()).filter(|token| !token.is_empty())
    }

    fn start_k3s(&self) -> bool {
        if self.world.lock().unwrap().no_memory_cgroup {
            self.say("level=fatal msg=\"Failed to find memory cgroup, you may need to add \\\"cgroup_memory=1\\\"\"");
            return false;
        }
        let Some(config) = self.k3s_config("k3s.service") else { return false };
        let Some(token) = self.k3s_token(&config) else { return false };
        let stored = self.get("/var/lib/rancher/k3s/server/token");
        if stored.is_some_and(|stored| stored != format!("K10aa::server:{token}")) {
            self.say("starting kubernetes: preparing server: bootstrap data already found and encrypted with different token");
            return false;
        }
        let data = "/var/lib/rancher/k3s/server";
        self.put(&format!("{data}/token"), &format!("K10aa::server:{token}"));
        if !self.has_file(&format!("{data}/db/state.db")) {
            self.put(&format!("{data}/db/state.db"), "empty database\n");
            self.put(&format!("{data}/db/state.db-wal"), "");
        }
        if !self.has_file(&format!("{data}/tls/server-ca.crt")) {
            self.put(&format!("{data}/tls/server-ca.crt"), &format!("authority {}", uuid::Uuid::new_v4()));
        }
        self.put("/etc/rancher/k3s/k3s.yaml", "apiVersion: v1\nkind: Config\nclient-key-data: c2VjcmV0\n");
        self.k3s_node();
        true
    }

    fn start_agent(&self) -> bool {
        let Some(config) = self.k3s_config("k3s-agent.service") else { return false };
        if config["server"] != format!("https://{SERVER}:6443") {
            self.say("Failed to get CA certs: dial tcp: connect: connection refused");
            return false;
        }
        let Some(token) = self.k3s_token(&config) else { return false };
        let node = config["node-name"].as_str().unwrap().to_owned();
        let (hash, credential) = token.strip_prefix("K10").unwrap().split_once("::").unwrap();
        {
            let world = self.world.lock().unwrap();
            let known = self.has_file("/var/lib/rancher/k3s/agent/kubelet.kubeconfig") && world.members.contains(&node);
            if hash != world.pem_sha256 {
                drop(world);
                self.say("Error: token CA hash does not match the Cluster CA certificate hash: 1 != 2");
                return false;
            }
            if !known && !world.tokens.contains(credential) {
                drop(world);
                // as a careless program might
                self.say(&format!(
                    "Failed to validate connection to cluster: {token}: /v1-k3s/readyz: 401 Unauthorized"
                ));
                return false;
            }
        }
        self.world.lock().unwrap().members.insert(node);
        self.k3s_node();
        true
    }

    fn k3s_node(&self) {
        self.put("/var/lib/rancher/k3s/agent/kubelet.kubeconfig", "x");
        self.put("/var/lib/rancher/k3s/agent/containerd/meta.db", "x");
        self.put("/var/lib/rancher/k3s/data/abc/bin/containerd-shim-runc-v2", "x");
        self.put("/etc/rancher/node/password", "node password");
        self.put("/var/lib/kubelet/device-plugins/kubelet.sock", "x");
        self.put("/run/k3s/containerd/1/rootfs/x", "x");
        {
            let mut world = self.world.lock().unwrap();
            if !world.mounts.iter().any(|mount| mount.starts_with("/run/k3s")) {
                world.mounts.push("/run/k3s/containerd/1/root fs".to_owned());
            }
        }
        self.pods("/var/lib/rancher/k3s/data/abc/bin/containerd-shim-runc-v2 -namespace k8s.io -id 1");
    }

    fn say(&self, words: &str) {
        self.world.lock().unwrap().journal.push(words.to_owned());
    }

    /// Whether this Pi's API server answers.
    fn serves(&self) -> bool {
        let kubeadm = self.is_active("kubelet.service")
            && self.is_active("containerd.service")
            && self.has_file("/etc/kubernetes/manifests/kube-apiserver.yaml")
            && self.has_file("/var/lib/etcd/member/snap/db");
        kubeadm || (self.is_active("k3s.service") && self.has_file("/var/lib/rancher/k3s/server/db/state.db"))
    }

    fn deed(&self, call: &ToolCall) -> Ran {
        let words: Vec<&str> = call.arguments.iter().map(String::as_str).collect();
        let name = call.program.rsplit('/').next().unwrap();
        let ran = match name {
            "systemctl" => self.systemctl(&words),
            "journalctl" => self.journalctl(&words),
            "k3s" => match words.as_slice() {
                ["--version"] => {
                    let text = self.get("/usr/local/bin/k3s").unwrap_or_default();
                    match text.strip_prefix("k3s ") {
                        Some(version) => said(&format!("k3s version {version} (0123abcd)\ngo version go1.22.4\n")),
                        None => failed("exec format error"),
                    }
                }
                ["kubectl", rest @ ..] => self.kubectl(rest, call),
                ["crictl", "pull", image] => self.pull(image),
                _ => unknown(call),
            },
            "kubectl" => self.kubectl(&words, call),
            "kubeadm" => self.kubeadm(&words),
            "crictl" => self.crictl(&words),
            "ctr" => self.ctr(&words),
            "ip" => self.ip(&words),
            "iptables-save" | "ip6tables-save" => match words.as_slice() {
                ["-f", file] => {
                    let rules = self.world.lock().unwrap().rules[family(name)].clone();
                    fs::write(file, rules).unwrap();
                    said("")
                }
                _ => unknown(call),
            },
            "iptables-restore" | "ip6tables-restore" => match words.as_slice() {
                ["--wait=10", file] => {
                    let rules = fs::read_to_string(file).unwrap();
                    self.world.lock().unwrap().rules.insert(family(name), rules);
                    said("")
                }
                _ => unknown(call),
            },
            "ipvsadm" => {
                assert_eq!(words, ["--clear"]);
                self.world.lock().unwrap().ipvs = false;
                said("")
            }
            "umount" => self.umount(&words),
            "kill" => self.kill(&words),
            "swapoff" => {
                self.world.lock().unwrap().swap = false;
                said("")
            }
            "modprobe" => {
                self.world.lock().unwrap().modules.insert(words[0].to_owned());
                said("")
            }
            "sysctl" => {
                let good =
                    words[0] == "--load" && fs::read_to_string(words[1]).is_ok_and(|text| text.contains("ip_forward"));
                if good { said("") } else { failed("cannot open file") }
            }
            "apt-mark" => said(""),
            "dpkg" => self.dpkg(&words),
            _ => unknown(call),
        };
        self.show();
        ran
    }

    fn systemctl(&self, words: &[&str]) -> Ran {
        let (flags, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("--"));
        let [verb, units @ ..] = words.as_slice() else { return failed("no verb") };
        let unit = units.first().copied().unwrap_or_default();
        let is_known = match unit {
            "" | "ssh.service" => true,
            "containerd.service" => self.world.lock().unwrap().packages.contains_key("containerd"),
            "kubelet.service" => self.has("/usr/bin/kubelet"),
            unit => self.has_file(&format!("/etc/systemd/system/{unit}")),
        };
        let absent = || failed(&format!("Unit {unit} could not be found."));
        match *verb {
            "daemon-reload" => said(""),
            "is-active" => Ran { code: Some(if self.is_active(unit) { 0 } else { 3 }), ..said("") },
            "start" | "restart" if !is_known => absent(),
            "start" => {
                self.start_unit(unit);
                said("")
            }
            "restart" => {
                self.world.lock().unwrap().active.remove(unit);
                self.start_unit(unit);
                said("")
            }
            // containers live on: KillMode=process, and by the kubelet's design
            "stop" => {
                let was = self.world.lock().unwrap().active.remove(unit);
                if was || is_known { said("") } else { Ran { code: Some(5), ..absent() } }
            }
            "enable" if is_known => {
                self.world.lock().unwrap().enabled.insert(unit.to_owned());
                if unit != "containerd.service" {
                    self.put(&format!("/etc/systemd/system/multi-user.target.wants/{unit}"), "a link");
                }
                if flags.contains(&"--now") {
                    self.start_unit(unit);
                }
                said("")
            }
            "disable" => {
                self.world.lock().unwrap().enabled.remove(unit);
                self.gone(&format!("/etc/systemd/system/multi-user.target.wants/{unit}"));
                if flags.contains(&"--now") {
                    self.world.lock().unwrap().active.remove(unit);
                }
                if is_known { said("") } else { absent() }
            }
            "reset-failed" | "kill" => {
                if is_known {
                    said("")
                } else {
                    absent()
                }
            }
            _ => absent(),
        }
    }

    fn journalctl(&self, words: &[&str]) -> Ran {
        let world = self.world.lock().unwrap();
        if words.contains(&"--show-cursor") {
            return said(&format!("-- cursor: s={}\n", world.journal.len()));
        }
        let after =
            words.iter().find_map(|word| word.strip_prefix("--after-cursor=s=")).map_or(0, |n| n.parse().unwrap());
        said(&world.journal[after..].join("\n"))
    }

    fn kubectl(&self, words: &[&str], call: &ToolCall) -> Ran {
        let ["--kubeconfig", kubeconfig, words @ ..] = words else { return failed("no kubeconfig") };
        if !Path::new(kubeconfig).exists() || !self.serves() {
            return failed(
                "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?",
            );
        }
        match words {
            ["get", "--raw", "/readyz"] => said("ok"),
            ["get", "configmap", "beehive", ..] => {
                said(self.world.lock().unwrap().named.as_deref().unwrap_or_default())
            }
            ["apply", "--filename", "-"] => {
                let text = String::from_utf8(call.input.as_ref().unwrap().to_vec()).unwrap();
                let mut world = self.world.lock().unwrap();
                if text.contains("needs-crd") && !world.applied.iter().any(|text| text.contains("brings-crd")) {
                    return failed("resource mapping not found: no matches for kind \"Pool\" in version \"v1\"");
                }
                if text.contains("is-wrong") {
                    return failed("error validating data: unknown field");
                }
                if let Ok(value) = serde_json::from_str::<Value>(&text) {
                    if value["metadata"]["name"] == "beehive" {
                        assert_eq!(value["kind"], "ConfigMap");
                        world.named = Some(value["data"]["cluster"].as_str().unwrap().to_owned());
                        return said("configmap/beehive created\n");
                    }
                }
                if world.applied.contains(&text) {
                    return said("deployment.apps/x unchanged\n");
                }
                world.applied.push(text);
                said("namespace/x unchanged\ndeployment.apps/x created\n")
            }
            _ => unknown(call),
        }
    }

    fn kubeadm(&self, words: &[&str]) -> Ran {
        match words {
            ["version", "--output", "short"] => {
                said(&format!("{}\n", self.world.lock().unwrap().packages.get("kubeadm").cloned().unwrap_or_default()))
            }
            ["init", "--config", file, "--skip-token-print"] => self.kubeadm_init(file),
            ["join", "--config", file] => self.kubeadm_join(file),
            ["reset", "--force", "--cri-socket", _] => {
                self.world.lock().unwrap().active.remove("kubelet.service");
                if self.is_active("containerd.service") && self.has("/usr/bin/crictl") {
                    self.world.lock().unwrap().processes.clear();
                }
                self.world.lock().unwrap().mounts.retain(|mount| !mount.starts_with("/var/lib/kubelet/"));
                for path in [
                    "manifests",
                    "pki",
                    "admin.conf",
                    "kubelet.conf",
                    "bootstrap-kubelet.conf",
                    "controller-manager.conf",
                    "scheduler.conf",
                ] {
                    self.gone(&format!("/etc/kubernetes/{path}"));
                }
                for folder in ["/var/lib/etcd", "/var/lib/kubelet"] {
                    for entry in fs::read_dir(self.at(folder)).into_iter().flatten() {
                        let name = entry.unwrap().file_name().into_string().unwrap();
                        self.gone(&format!("{folder}/{name}"));
                    }
                }
                said("The reset process does not clean CNI configuration. To do so, you must remove /etc/cni/net.d\n")
            }
            ["upgrade", "apply", "--yes", version] => {
                if self.world.lock().unwrap().packages["kubeadm"] != *version {
                    return failed("the --version argument is invalid");
                }
                if !self.serves() {
                    return failed("connection refused");
                }
                self.put(
                    "/etc/kubernetes/manifests/kube-apiserver.yaml",
                    &format!("image: kube-apiserver:{version}\n"),
                );
                said("[upgrade/successful] SUCCESS!\n")
            }
            ["upgrade", "node"] => said("[upgrade] The configuration for this node was successfully updated!\n"),
            _ => failed("unknown command"),
        }
    }

    /// The documents of a configuration, which only root may read.
    fn kubeadm_config(&self, file: &str) -> Vec<Value> {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "for root alone");
        assert!(Path::new(file).starts_with(self.at("/run")), "in memory: {file}");
        fs::read_to_string(file).unwrap().split("\n---\n").map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    fn kubeadm_checks(&self) -> Option<Ran> {
        let mut errors = Vec::new();
        if self.has_file("/etc/kubernetes/kubelet.conf") {
            errors.push(
                "[ERROR FileAvailable--etc-kubernetes-kubelet.conf]: /etc/kubernetes/kubelet.conf already exists",
            );
        }
        if self.has_file("/etc/kubernetes/manifests/kube-apiserver.yaml") {
            errors.push("[ERROR FileAvailable--etc-kubernetes-manifests-kube-apiserver.yaml]: already exists");
        }
        if self.has_file("/var/lib/etcd/member") {
            errors.push("[ERROR DirAvailable--var-lib-etcd]: /var/lib/etcd is not empty");
        }
        if !self.is_active("containerd.service") {
            errors.push("[ERROR CRI]: container runtime is not running");
        }
        let world = self.world.lock().unwrap();
        if world.swap {
            errors.push("[ERROR Swap]: running with swap on is not supported. Please disable swap");
        }
        if !world.modules.contains("br_netfilter") {
            errors.push("[ERROR FileContent--proc-sys-net-bridge-bridge-nf-call-iptables]: does not exist");
        }
        (!errors.is_empty()).then(|| {
            failed(&format!(
                "error execution phase preflight: [preflight] Some fatal errors occurred:\n{}",
                errors.join("\n")
            ))
        })
    }

    fn kubelet_files(&self) {
        self.put("/etc/kubernetes/kubelet.conf", "client-key-data: c2VjcmV0");
        self.put("/var/lib/kubelet/config.yaml", "x");
        self.put("/var/lib/kubelet/pki/kubelet-client-current.pem", "x");
        self.put("/etc/cni/net.d/10-flannel.conflist", "{}");
        self.start_unit("kubelet.service");
    }

    fn kubeadm_init(&self, file: &str) -> Ran {
        if let Some(errors) = self.kubeadm_checks() {
            return errors;
        }
        let config = self.kubeadm_config(file);
        let kinds: Vec<&str> = config.iter().map(|part| part["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["InitConfiguration", "ClusterConfiguration", "KubeletConfiguration"]);
        assert_eq!(config[1]["kubernetesVersion"], *self.world.lock().unwrap().packages["kubeadm"]);
        assert_eq!(config[0]["bootstrapTokens"][0]["ttl"], "1m0s");
        let name = config[0]["nodeRegistration"]["name"].as_str().unwrap();
        self.put("/etc/kubernetes/pki/ca.crt", &format!("authority {}", uuid::Uuid::new_v4()));
        for file in ["ca.key", "sa.key", "sa.pub", "etcd/ca.crt", "etcd/server.key"] {
            self.put(&format!("/etc/kubernetes/pki/{file}"), "x");
        }
        let etcd = format!(
            "spec:\n  containers:\n  - command:\n    - etcd\n    - --data-dir=/var/lib/etcd\n    \
             - --initial-advertise-peer-urls=https://10.0.0.1:2380\n    \
             - --initial-cluster={name}=https://10.0.0.1:2380\n    - --name={name}\n    \
             image: registry.k8s.io/etcd:3.5.12-0\n"
        );
        self.put("/etc/kubernetes/manifests/etcd.yaml", &etcd);
        self.put("/etc/kubernetes/manifests/kube-apiserver.yaml", "image: kube-apiserver\n");
        self.put("/var/lib/etcd/member/snap/db", "empty database\n");
        self.put("/etc/kubernetes/admin.conf", "apiVersion: v1\nkind: Config\nclient-key-data: c2VjcmV0\n");
        self.kubelet_files();
        said("Your Kubernetes control-plane has initialized successfully!\n")
    }

    fn kubeadm_join(&self, file: &str) -> Ran {
        if let Some(errors) = self.kubeadm_checks() {
            return errors;
        }
        let config = self.kubeadm_config(file);
        let [join] = config.as_slice() else { return failed("one document") };
        assert_eq!(join["kind"], "JoinConfiguration");
        let discovery = &join["discovery"]["bootstrapToken"];
        if discovery["apiServerEndpoint"] != format!("{SERVER}:6443") {
            return failed(
                "couldn't validate the identity of the API Server: Get \"https://x:6443/api\": dial tcp: connect: \
                 connection refused",
            );
        }
        let token = discovery["token"].as_str().unwrap().to_owned();
        let mut world = self.world.lock().unwrap();
        if !world.tokens.contains(&token) {
            // with the token, as a careless program might
            return failed(&format!(
                "couldn't validate the identity of the API Server: could not find a JWS signature in the cluster-info \
                 ConfigMap for token {token}"
            ));
        }
        if discovery["caCertHashes"][0] != format!("sha256:{}", world.key_sha256) {
            return failed(
                "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys \"sha256:c\" are pinned",
            );
        }
        let name = join["nodeRegistration"]["name"].as_str().unwrap().to_owned();
        if world.members.contains(&name) {
            return failed(&format!(
                "a Node with name \"{name}\" and status \"Ready\" already exists in the cluster. You must delete the \
                 existing Node or change the name of this new joining Node"
            ));
        }
        world.members.insert(name);
        drop(world);
        self.put("/etc/kubernetes/pki/ca.crt", "authority of another Pi");
        self.kubelet_files();
        said("This node has joined the cluster\n")
    }

    fn crictl(&self, words: &[&str]) -> Ran {
        let ["--runtime-endpoint", "unix:///run/containerd/containerd.sock", words @ ..] = words else {
            return failed("no endpoint");
        };
        if !self.is_active("containerd.service") {
            return failed("connect: connection refused");
        }
        match words {
            ["pods", "--quiet", "--state", "ready"] => {
                let some = !self.world.lock().unwrap().processes.is_empty();
                said(if some { "aa11\nbb22\n" } else { "" })
            }
            ["stopp", ids @ ..] => {
                assert_eq!(ids, ["aa11", "bb22"]);
                // the containers end, their shims do not: what is left is killed
                self.world.lock().unwrap().processes.retain(|_, (_, command)| command.contains("shim"));
                said("")
            }
            ["rmp", "--all", "--force"] => {
                self.world.lock().unwrap().processes.clear();
                said("")
            }
            ["ps", "--quiet", "--state", "running", "--name", "^etcd$"] => {
                said(if self.serves() { "e7cd\n" } else { "" })
            }
            ["exec", "e7cd", "etcdctl", _, _, _, _, "snapshot", "save", "/var/lib/etcd/beehive-snapshot.db"] => {
                let text = self.get("/var/lib/etcd/member/snap/db").unwrap();
                self.put("/var/lib/etcd/beehive-snapshot.db", &text);
                said("Snapshot saved\n")
            }
            ["pull", image] => self.pull(image),
            _ => failed("unknown command"),
        }
    }

    fn pull(&self, image: &str) -> Ran {
        if image.contains("missing") {
            return failed("failed to pull: not found");
        }
        self.world.lock().unwrap().pulled.push(image.to_owned());
        said("Image is up to date\n")
    }

    fn ctr(&self, words: &[&str]) -> Ran {
        let ["--namespace", "k8s.io", words @ ..] = words else { return failed("no namespace") };
        match words {
            ["images", "import", file] => {
                self.world.lock().unwrap().imported.push(fs::read_to_string(file).unwrap());
                said("unpacking\n")
            }
            [
                "run",
                "--rm",
                "--mount",
                mount,
                "registry.k8s.io/etcd:3.5.12-0",
                _,
                program,
                "snapshot",
                "restore",
                "/restore/etcd.db",
                "--data-dir",
                "/restore/data",
                "--name",
                _,
                "--initial-cluster",
                _,
                "--initial-advertise-peer-urls",
                _,
            ] => {
                if *program == "etcdutl" {
                    return failed("exec: \"etcdutl\": executable file not found in $PATH");
                }
                let folder = mount.split(',').find_map(|part| part.strip_prefix("src=")).unwrap();
                let text = fs::read_to_string(format!("{folder}/etcd.db")).unwrap();
                let to = format!("{folder}/data/member/snap");
                fs::create_dir_all(&to).unwrap();
                fs::write(format!("{to}/db"), text).unwrap();
                said("restored snapshot\n")
            }
            _ => failed("unknown command"),
        }
    }

    fn ip(&self, words: &[&str]) -> Ran {
        let mut world = self.world.lock().unwrap();
        match words {
            ["link", "show", "dev", name] => {
                if world.links.contains_key(*name) {
                    said("3: x\n")
                } else {
                    failed(&format!("Device \"{name}\" does not exist."))
                }
            }
            ["link", "delete", name] => {
                if world.links.remove(*name).is_some() {
                    said("")
                } else {
                    failed("Cannot find device")
                }
            }
            ["-brief", "link", "show"] => {
                said(&world.links.keys().map(|name| format!("{name}  UP  aa:bb <UP>\n")).collect::<String>())
            }
            ["-brief", "link", "show", "master", master] => {
                if !world.links.contains_key(*master) {
                    return failed("Device \"cni0\" does not exist.");
                }
                let ports = world.links.iter().filter(|(_, of)| of.as_deref() == Some(*master));
                said(&ports.map(|(name, _)| format!("{name}@if2       UP   aa:bb <UP>\n")).collect::<String>())
            }
            ["netns", "list"] => {
                said(&world.namespaces.iter().map(|name| format!("{name} (id: 1)\n")).collect::<String>())
            }
            ["netns", "delete", name] => {
                world.namespaces.remove(*name);
                world.mounts.retain(|mount| *mount != format!("/run/netns/{name}"));
                drop(world);
                self.gone(&format!("/run/netns/{name}"));
                said("")
            }
            ["-oneline", "address", "show", "dev", "eth0", "scope", "global"] => said(
                "2: eth0    inet 10.0.0.7/24 brd 10.0.0.255 scope global eth0\\       valid_lft forever\n2: eth0    inet6 fd00::7/64 scope global\n",
            ),
            ["-oneline", "address", "show", ..] => said(""),
            _ => failed("unknown command"),
        }
    }

    fn umount(&self, words: &[&str]) -> Ran {
        let [_, path] = words else { return failed("no path") };
        let path = format!("/{}", Path::new(path).strip_prefix(self.dir.path()).unwrap().display());
        let mut world = self.world.lock().unwrap();
        let before = world.mounts.len();
        if world.busy.contains(&path) {
            return failed("target is busy");
        }
        world.mounts.retain(|mount| *mount != path);
        if world.mounts.len() < before { said("") } else { failed("not mounted") }
    }

    fn kill(&self, words: &[&str]) -> Ran {
        let ["-9", numbers @ ..] = words else { return failed("no signal") };
        for number in numbers {
            self.world.lock().unwrap().processes.remove(&number.parse().unwrap());
        }
        said("")
    }

    fn dpkg(&self, words: &[&str]) -> Ran {
        let ["--install", "--force-confold", debs @ ..] = words else { return failed("unknown option") };
        for deb in debs {
            let text = fs::read_to_string(deb).unwrap();
            let mut parts = text.split(' ');
            let (package, version) = (parts.next().unwrap(), parts.next().unwrap());
            assert_eq!(parts.next(), Some("arm64"), "for this processor");
            self.world.lock().unwrap().packages.insert(package.to_owned(), version.to_owned());
        }
        said("")
    }
}

fn family(name: &str) -> &'static str {
    if name.starts_with("ip6") { "6" } else { "4" }
}

fn said(text: &str) -> Ran {
    Ran { code: Some(0), stdout: text.to_owned(), stderr: String::new() }
}

fn failed(text: &str) -> Ran {
    Ran { code: Some(1), stdout: String::new(), stderr: text.to_owned() }
}

/// A call that no double knows is a mistake of the engine.
fn unknown(call: &ToolCall) -> Ran {
    panic!("no double knows this call: {call:?}")
}

/// The programs of a Pi.
struct Doubles(Arc<Pi>);

impl Tools for Doubles {
    fn run(&self, call: ToolCall) -> BoxFuture<'static, Result<Ran, ToolError>> {
        Arc::clone(&self.0).run(call)
    }

    fn has(&self, program: &'static str) -> bool {
        self.0.has(program)
    }
}

impl Pi {
    /// Whether a program is there.
    pub(super) fn has(&self, program: &str) -> bool {
        let package = match program {
            "/usr/local/bin/k3s" => return self.has_file(program),
            "/usr/bin/kubeadm" => "kubeadm",
            "/usr/bin/kubelet" => "kubelet",
            "/usr/bin/kubectl" => "kubectl",
            "/usr/bin/crictl" => "cri-tools",
            "/usr/bin/containerd" | "/usr/bin/ctr" => "containerd",
            _ => return true,
        };
        self.world.lock().unwrap().packages.contains_key(package)
    }

    fn run(self: Arc<Self>, call: ToolCall) -> BoxFuture<'static, Result<Ran, ToolError>> {
        let pi = self;
        assert!(call.program.starts_with('/'));
        assert!(call.environment.iter().any(|(name, _)| *name == "PATH"), "{call:?} needs to find its own programs");
        async move {
            pi.calls.lock().unwrap().push(call.clone());
            if !pi.has(call.program) {
                return Err(ToolError::Missing { program: call.program });
            }
            let mut ran = match pi.verdict(format!("{call:?}")) {
                Verdict::Go => pi.deed(&call),
                Verdict::Fail => failed("it failed, as the test wants"),
                Verdict::Hang => {
                    pi.hung.notify_one();
                    std::future::pending().await
                }
                Verdict::Late => {
                    let (program, deadline) = (call.program, call.deadline);
                    return Err(ToolError::Deadline { program, deadline, last: "still waiting".to_owned() });
                }
                Verdict::Dead => std::future::pending().await,
                Verdict::GoThenDie => {
                    pi.deed(&call);
                    pi.died.notify_one();
                    std::future::pending().await
                }
            };
            // as the real ones: the end of the output
            for text in [&mut ran.stdout, &mut ran.stderr] {
                *text = text.split_off(text.len().saturating_sub(OUTPUT_BYTES));
            }
            Ok(ran)
        }
        .boxed()
    }
}

/// What changes the files of a Pi.
struct Hand(Arc<Pi>);

impl Gate for Hand {
    fn pass(&self, what: &'static str, path: &Path) -> io::Result<()> {
        // a change is whole or not there; what is written beside and renamed is two. After it is before the next one.
        self.0.file_action(format!("{what} {}", path.display()), || Ok(()))
    }
}

/// The card below the engine's store, with the same faults.
struct Card(Arc<Pi>);

impl Disk for Card {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.file_action(format!("mkdir {}", path.display()), || RealDisk.create_dir(path))
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        RealDisk.read(path, limit)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.file_action(format!("store {}", path.display()), || RealDisk.write(path, bytes))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.file_action(format!("sync {}", path.display()), || RealDisk.sync(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.file_action(format!("rename {}", to.display()), || RealDisk.rename(from, to))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.file_action(format!("sync {}", path.display()), || RealDisk.sync_dir(path))
    }
}
