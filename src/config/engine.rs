//! `[engine]`: which engine, and what the real ones are told. Everything here ends up in files and arguments of programs
//! that run as root, so each value is a checked word: what passes holds no space, no quote and no line's end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use beehive_mqtt::Text;
use serde::Deserialize;

use super::{Check, key_of};

/// A step of the simulated engine; longer than its command's expiry it could not succeed.
const STEP_MS: Range<u64> = 0..600_001;
/// Copies of the cluster's state that are kept.
pub(super) const DEFAULT_SNAPSHOTS: u64 = 3;
/// With none there would be nothing to go back to; a copy of a small cluster's state has some ten megabytes.
const SNAPSHOTS: Range<u64> = 1..33;
/// The user that the packages make for the daemon.
pub(super) const DEFAULT_DAEMON_USER: &str = "beehive";
pub(super) const DEFAULT_ARTEFACTS: &str = "/usr/share/beehive/engine";
pub(super) const DEFAULT_ADD_ONS: &str = "/etc/beehive/add-ons";
/// Nobody lists more by hand, and each costs an argument or a line.
const MAX_LISTED: usize = 64;
/// The longest word: a label with its value has 380 bytes at most.
const MAX_WORD_BYTES: usize = 400;

/// The parts that k3s brings along and can leave out (docs.k3s.io, "Managing Packaged Components").
pub(super) const K3S_PARTS: [&str; 5] = ["coredns", "servicelb", "traefik", "local-storage", "metrics-server"];

/// What the engines set themselves, from this configuration or from what they know of the node.
const OWN_KUBELET_ARGS: [&str; 12] = [
    "bootstrap-kubeconfig",
    "cert-dir",
    "cgroup-root",
    "config",
    "container-runtime-endpoint",
    "hostname-override",
    "kubeconfig",
    "node-ip",
    "node-labels",
    "register-with-taints",
    "root-dir",
    "rotate-certificates",
];

/// The engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Which.
    pub kind: EngineKind,
    /// How long each step of the simulated engine takes, in milliseconds.
    pub step_ms: u64,
    /// What each step of the simulated engine runs, if anything: a program, without arguments.
    pub step_program: Option<PathBuf>,
    /// The version that is wanted; empty means the one that is installed.
    pub version: Text<32>,
    /// The user as which the daemon runs: beside root the only one that the root unit listens to.
    pub daemon_user: String,
    /// What the real engines are told.
    pub settings: EngineSettings,
}

/// The engines that this program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// k3s: one binary, made for small machines; the one for Pis.
    K3s,
    /// kubeadm, with containerd.
    Kubeadm,
    /// None: it behaves like one.
    Simulated,
}

impl EngineKind {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Kubeadm => "kubeadm",
            Self::Simulated => "simulated",
        }
    }
}

/// What the real engines are told. All words are checked: they hold no space, no quote and no line's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// The folder on the card with what is installed from: `k3s/VERSION/…`, `kubeadm/VERSION/…`.
    pub artefacts: PathBuf,
    /// The folder with the manifests that are applied to a new cluster.
    pub add_ons: PathBuf,
    /// Registries, and where their images are asked for instead, in this order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Images that are fetched before they are wanted.
    pub pre_pull: Vec<String>,
    /// Labels with which the node registers.
    pub labels: Vec<Pair>,
    /// Taints with which the node registers.
    pub taints: Vec<Taint>,
    /// The network interface whose address is the node's, if not the one of the default route.
    pub interface: Option<String>,
    /// The node's address; goes before `interface`.
    pub advertise_address: Option<IpAddr>,
    /// Names and addresses that the API server's certificate holds for beside its own.
    pub tls_sans: Vec<String>,
    /// Flags of the kubelet, without `--`.
    pub kubelet_args: Vec<Pair>,
    /// The pods' addresses; none means the engine's default.
    pub pod_cidr: Option<String>,
    /// The services' addresses; none means the engine's default.
    pub service_cidr: Option<String>,
    /// What k3s leaves out.
    pub disable: Vec<String>,
    /// How many copies of the cluster's state are kept.
    pub snapshots: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            artefacts: DEFAULT_ARTEFACTS.into(),
            add_ons: DEFAULT_ADD_ONS.into(),
            mirrors: BTreeMap::new(),
            pre_pull: Vec::new(),
            labels: Vec::new(),
            taints: Vec::new(),
            interface: None,
            advertise_address: None,
            tls_sans: Vec::new(),
            kubelet_args: Vec::new(),
            pod_cidr: None,
            service_cidr: None,
            disable: Vec::new(),
            snapshots: DEFAULT_SNAPSHOTS,
        }
    }
}

/// `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What stands before the first `=`.
    pub name: String,
    /// What stands after it.
    pub value: String,
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// `key=value:Effect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// Its effect: `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: &'static str,
}

impl std::fmt::Display for Taint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}:{}", self.key, self.value, self.effect)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEngine {
    kind: Option<String>,
    step_ms: Option<u64>,
    step_program: Option<PathBuf>,
    version: Option<String>,
    daemon_user: Option<String>,
    artefacts: Option<PathBuf>,
    add_ons: Option<PathBuf>,
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pre_pull: Vec<String>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    taints: Vec<String>,
    interface: Option<String>,
    pub(super) advertise_address: Option<String>,
    #[serde(default)]
    tls_sans: Vec<String>,
    #[serde(default)]
    kubelet_args: Vec<String>,
    pod_cidr: Option<String>,
    service_cidr: Option<String>,
    #[serde(default)]
    disable: Vec<String>,
    snapshots: Option<u64>,
}

pub(super) fn engine(raw: RawEngine, check: &mut Check<'_>) -> EngineConfig {
    let kinds = [EngineKind::K3s, EngineKind::Kubeadm, EngineKind::Simulated].map(|kind| (kind.as_str(), kind));
    let kind = check.choice(&["engine", "kind"], raw.kind.as_deref(), EngineKind::Simulated, &kinds);
    let step_ms = check.within(
        &["engine", "step_ms"],
        raw.step_ms.unwrap_or(0),
        STEP_MS,
        "a step that takes longer than its command may take can only fail",
    );
    let step_program = raw
        .step_program
        .filter(|program| !program.as_os_str().is_empty())
        .map(|program| check.folder(&["engine", "step_program"], Some(program), "/usr/local/bin/step"));
    let version: Text<32> = check.short(&["engine", "version"], raw.version.as_deref().unwrap_or(""));
    match kind {
        EngineKind::Simulated => {}
        EngineKind::K3s | EngineKind::Kubeadm => {
            if !version.is_empty() && !is_version(version.as_str()) {
                let message = format!("version in [engine] is {:?}, which is no version", version.as_str());
                let hint = "write it as its releases are named, such as \"v1.30.2+k3s1\" or \"v1.26.15\"";
                check.problem("value", &["engine", "version"], message, hint);
            }
        }
    }
    let settings = EngineSettings {
        artefacts: own_folder("artefacts", raw.artefacts, DEFAULT_ARTEFACTS, check),
        add_ons: own_folder("add_ons", raw.add_ons, DEFAULT_ADD_ONS, check),
        mirrors: mirrors(raw.mirrors, check),
        pre_pull: words(
            "pre_pull",
            raw.pre_pull,
            is_image,
            "an image such as \"docker.io/library/nginx:1.27.0\"",
            check,
        ),
        labels: parsed("labels", &raw.labels, label, check),
        taints: parsed("taints", &raw.taints, taint, check),
        interface: one("interface", raw.interface, is_interface, "an interface's name, such as \"eth0\"", check),
        advertise_address: raw.advertise_address.filter(|given| !given.is_empty()).and_then(|given| {
            let hint = "write this node's IP address, such as \"10.0.0.7\"";
            check.name::<IpAddr>(&["engine", "advertise_address"], &given, hint)
        }),
        tls_sans: words("tls_sans", raw.tls_sans, is_host, "a host's name or an IP address", check),
        kubelet_args: parsed("kubelet_args", &raw.kubelet_args, kubelet_arg, check),
        pod_cidr: one("pod_cidr", raw.pod_cidr, is_cidr, "a range of addresses such as \"10.42.0.0/16\"", check),
        service_cidr: one(
            "service_cidr",
            raw.service_cidr,
            is_cidr,
            "a range of addresses such as \"10.43.0.0/16\"",
            check,
        ),
        disable: words(
            "disable",
            raw.disable,
            |word| K3S_PARTS.contains(&word),
            "parts of k3s: \"coredns\", \"servicelb\", \"traefik\", \"local-storage\", \"metrics-server\"",
            check,
        ),
        snapshots: check.within(
            &["engine", "snapshots"],
            raw.snapshots.unwrap_or(DEFAULT_SNAPSHOTS),
            SNAPSHOTS,
            "with none there is nothing to go back to, and a card is small",
        ),
    };
    if kind == EngineKind::Kubeadm && !settings.disable.is_empty() {
        let message = "disable in [engine] names parts of k3s, but kind is \"kubeadm\"".to_owned();
        check.problem("conflict", &["engine", "disable"], message, "remove the key: kubeadm brings none of them along");
    }
    let both = settings.pod_cidr.is_some() && settings.pod_cidr == settings.service_cidr;
    if both {
        let message = "pod_cidr and service_cidr in [engine] are the same range".to_owned();
        check.problem("conflict", &["engine", "service_cidr"], message, "give pods and services ranges of their own");
    }
    let daemon_user = daemon_user(raw.daemon_user, check);
    EngineConfig { kind, step_ms, step_program, version, daemon_user, settings }
}

/// A user's name as useradd(8) admits it.
fn daemon_user(given: Option<String>, check: &mut Check<'_>) -> String {
    let Some(given) = given else { return DEFAULT_DAEMON_USER.to_owned() };
    let good = (1..=32).contains(&given.len())
        && given.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && given.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if !good {
        let message = format!("daemon_user in [engine] is {given:?}, which is no user's name");
        let hint = "write the user of beehive.service, such as \"beehive\"; root may always ask";
        check.problem("value", &["engine", "daemon_user"], message, hint);
    }
    given
}

/// A folder of ours: a reset removes the engines' folders, so it must lie in none of them.
fn own_folder(key: &str, given: Option<PathBuf>, default: &str, check: &mut Check<'_>) -> PathBuf {
    let path = ["engine", key];
    let folder = check.folder(&path, given, default);
    let dotted = folder
        .components()
        .any(|part| !matches!(part, std::path::Component::Normal(_) | std::path::Component::RootDir));
    let swept = crate::engine::sweep::SWEPT
        .iter()
        .find(|swept| folder.starts_with(swept) || Path::new(swept).starts_with(&folder));
    if dotted || !folder.to_str().is_some_and(|text| text.bytes().all(is_path_byte)) {
        let message = format!("{} is {:?}, which is no plain path", key_of(&path), folder.display().to_string());
        check.problem(
            "value",
            &path,
            message,
            "write a path of letters, digits, '.', '_', '-' and '/', without \"..\"",
        );
    } else if let Some(swept) = swept {
        let message = format!("{} is {:?}, and a reset removes {swept:?}", key_of(&path), folder.display().to_string());
        check.problem("conflict", &path, message, format!("choose a folder elsewhere, such as {default:?}"));
    }
    folder
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b'+')
}

/// At most so many, each of which passes; empty ones are left out by nobody.
fn words(
    key: &str,
    given: Vec<String>,
    good: impl Fn(&str) -> bool,
    wanted: &str,
    check: &mut Check<'_>,
) -> Vec<String> {
    let path = ["engine", key];
    bounded(&path, given.len(), check);
    for word in &given {
        if word.len() > MAX_WORD_BYTES || !good(word) {
            let message = format!("{} names {word:?}, which is not what belongs there", key_of(&path));
            check.problem("value", &path, message, format!("write {wanted}"));
        }
    }
    given
}

fn one(
    key: &str,
    given: Option<String>,
    good: impl Fn(&str) -> bool,
    wanted: &str,
    check: &mut Check<'_>,
) -> Option<String> {
    let given = given.filter(|given| !given.is_empty())?;
    if !good(&given) {
        let path = ["engine", key];
        let message = format!("{} is {given:?}, which is not what belongs there", key_of(&path));
        check.problem("value", &path, message, format!("write {wanted}"));
    }
    Some(given)
}

fn bounded(path: &[&str], count: usize, check: &mut Check<'_>) {
    if count > MAX_LISTED {
        let message = format!("{} lists {count}, more than {MAX_LISTED}", key_of(path));
        check.problem("range", path, message, "shorten the list");
    }
}

/// Each is parsed; what is wrong says what is.
fn parsed<T>(key: &str, given: &[String], parse: impl Fn(&str) -> Result<T, String>, check: &mut Check<'_>) -> Vec<T> {
    let path = ["engine", key];
    bounded(&path, given.len(), check);
    let mut good = Vec::new();
    for word in given {
        match parse(word) {
            Ok(value) => good.push(value),
            Err(hint) => {
                let message = format!("{} names {word:?}, which cannot stand there", key_of(&path));
                check.problem("value", &path, message, hint);
            }
        }
    }
    good
}

/// Whether `text` is a version as releases are named; it names a folder on the card too.
pub(crate) fn is_version(text: &str) -> bool {
    let numbers = text.strip_prefix('v').unwrap_or(text);
    numbers.starts_with(|first: char| first.is_ascii_digit())
        && numbers.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'))
        && !numbers.contains("..")
}

fn is_interface(text: &str) -> bool {
    // IFNAMSIZ is 16 with the closing zero
    (1..16).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

pub(crate) fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || (!text.is_empty()
            && text.len() <= 253
            && text.split('.').all(|part| {
                (1..64).contains(&part.len())
                    && !part.starts_with('-')
                    && !part.ends_with('-')
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            }))
}

pub(super) fn is_host_and_port(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) => is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => is_host(text),
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let plain = length.bytes().all(|byte| byte.is_ascii_digit());
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => plain && (8..31).contains(&length),
        (Ok(IpAddr::V6(_)), Ok(length)) => plain && (32..127).contains(&length),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn is_image(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.len() <= 255
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':' | b'@'))
}

/// The name part of a label, or its value: Kubernetes' "Labels and Selectors", syntax.
fn is_label_part(text: &str) -> bool {
    (1..64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => prefix.parse::<IpAddr>().is_err() && is_host(prefix) && is_label_part(name),
        None => is_label_part(text),
    }
}

pub(super) fn label(word: &str) -> Result<Pair, String> {
    let form = "write a label such as \"disk=ssd\" or \"example.com/rack=3\"";
    let (name, value) = word.split_once('=').ok_or(form)?;
    if !is_label_key(name) || !(value.is_empty() || is_label_part(value)) {
        return Err(form.to_owned());
    }
    // what a kubelet may not set on itself (Kubernetes' admission plugin NodeRestriction, and the kubelet's own check)
    let prefix = name.split_once('/').map_or("", |(prefix, _)| prefix);
    let of = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    let allowed = ["kubelet.kubernetes.io", "node.kubernetes.io", "topology.kubernetes.io"].into_iter().any(of);
    if (of("kubernetes.io") || of("k8s.io")) && !allowed {
        return Err(format!("use another prefix: a node may not give itself labels below {prefix}"));
    }
    Ok(Pair { name: name.to_owned(), value: value.to_owned() })
}

pub(super) fn taint(word: &str) -> Result<Taint, String> {
    let form =
        "write a taint such as \"dedicated=db:NoSchedule\"; the effects are NoSchedule, PreferNoSchedule, NoExecute";
    let (rest, effect) = word.rsplit_once(':').ok_or(form)?;
    let effect =
        ["NoSchedule", "PreferNoSchedule", "NoExecute"].into_iter().find(|known| *known == effect).ok_or(form)?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if !is_label_key(key) || !(value.is_empty() || is_label_part(value)) {
        return Err(form.to_owned());
    }
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect })
}

fn kubelet_arg(word: &str) -> Result<Pair, String> {
    let form = "write a flag of the kubelet without dashes before it, such as \"max-pods=40\"";
    let (name, value) = word.split_once('=').ok_or(form)?;
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':' | b'%' | b'<' | b'=' | b',' | b'+')
    };
    let named = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !named || value.is_empty() || !value.bytes().all(plain) || word.len() > MAX_WORD_BYTES {
        return Err(form.to_owned());
    }
    if OWN_KUBELET_ARGS.contains(&name) {
        return Err(format!("remove it: the engine sets {name} itself"));
    }
    Ok(Pair { name: name.to_owned(), value: value.to_owned() })
}

fn mirrors(given: BTreeMap<String, Vec<String>>, check: &mut Check<'_>) -> BTreeMap<String, Vec<String>> {
    bounded(&["engine", "mirrors"], given.len(), check);
    for (registry, endpoints) in &given {
        let path = ["engine", "mirrors", registry.as_str()];
        bounded(&path, endpoints.len(), check);
        if !is_host_and_port(registry) {
            let message = format!("mirrors in [engine] has {registry:?}, which is no registry");
            check.problem(
                "value",
                &path,
                message,
                "write the registry's name as images have it, such as \"docker.io\"",
            );
        }
        for endpoint in endpoints {
            let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            let good = rest.is_some_and(|rest| {
                let (host, folder) = rest.split_once('/').unwrap_or((rest, ""));
                is_host_and_port(host) && folder.bytes().all(is_path_byte)
            });
            if !good || endpoint.len() > MAX_WORD_BYTES {
                let message =
                    format!("mirrors in [engine] has {endpoint:?} for {registry}, which is no address of a registry");
                check.problem("value", &path, message, "write an address such as \"https://mirror.local:5000\"");
            }
        }
    }
    given
}

/// The section in `beehive config example`.
pub(super) fn example() -> String {
    format!(
        r#"[engine]
# "k3s" on Pis: one binary, for 32 and 64 bits. "kubeadm": with containerd; on 32-bit Pis up to Kubernetes 1.26. "{simulated}": no
# Kubernetes at all; the default, so that nothing is installed unasked.
# kind = "{simulated}"
# The version that is wanted; empty means the one that is installed.
# version = ""
# The user that this daemon runs as: beside root the only one that `beehive engine` listens to.
# daemon_user = "{DEFAULT_DAEMON_USER}"
# For "{simulated}": how long each of its steps takes, in milliseconds.
# step_ms = 0
# For "{simulated}": a program that each of its steps runs, without arguments and as this daemon's user; empty means none.
# step_program = ""
# What is installed from, without a network: k3s/VERSION/ and kubeadm/VERSION/ with the files of its release (docs/engines.md).
# artefacts = "{DEFAULT_ARTEFACTS}"
# Manifests (*.yaml, *.json) that are applied, in the order of their names, to a new cluster.
# add_ons = "{DEFAULT_ADD_ONS}"
# Images that are fetched once the engine runs: ["docker.io/library/nginx:1.27.0"].
# pre_pull = []
# Labels and taints with which this node registers: ["disk=ssd"], ["dedicated=db:NoSchedule"].
# labels = []
# taints = []
# The interface whose address is this node's, such as "eth0", or the address itself; empty means that of the default route.
# interface = ""
# advertise_address = ""
# More names and addresses that the API server's certificate holds for.
# tls_sans = []
# Flags of the kubelet, without dashes: ["max-pods=40"].
# kubelet_args = []
# The addresses of pods and services, such as "10.42.0.0/16"; empty means the engine's default.
# pod_cidr = ""
# service_cidr = ""
# What k3s leaves out: "coredns", "servicelb", "traefik", "local-storage", "metrics-server".
# disable = []
# How many copies of the cluster's state are kept, on the control plane.
# snapshots = {DEFAULT_SNAPSHOTS}

# Where the images of a registry are asked for instead, in this order.
[engine.mirrors]
# "docker.io" = ["https://mirror.local:5000"]
"#,
        simulated = EngineKind::Simulated.as_str(),
    )
}
