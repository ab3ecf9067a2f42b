//! The daemon's configuration: one TOML file, `/etc/beehive/beehive.toml`.
//!
//! Every section refuses keys that it does not know, so that a misspelt key is an error and not a default. Whatever is
//! wrong is told with file, line and column, and what to do; rules that need more than one value (thresholds, deadlines,
//! the broker's place) are checked here too, so that `beehive config check` says what `beehive run` would say.
//!
//! A broker has to be on this machine's loopback, or be spoken to over TLS (`tls = "on"`), or the configuration has to say
//! `insecure_test_broker = true`.

pub(crate) mod engine;
#[cfg(feature = "workstation")]
pub(crate) mod shared;

use self::engine::RawEngine;
pub use self::engine::{EngineConfig, EngineKind, EngineSettings, Pair, Taint};
use crate::coordinator::Outside;
use crate::kube::{DrainSettings, OnDeadline, OnLoss};
use crate::link::is_loopback;
use beehive_board::cut::Feed;
use beehive_board::gesture::Thresholds;
use beehive_board::power::Deadlines;
use beehive_cluster::Destruction;
use beehive_cluster::blockers::{AsksCommand, Blockers, PodSelector};
use beehive_cluster::coordinator::CoordinatorConfig;
use beehive_cluster::coordinator::PowerSwitch;
use beehive_mqtt::node::{BrokerTrust, Role};
use beehive_mqtt::{CrewName, MAX_NODES, NodeName, Text};
use serde::Deserialize;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::de::{DeTable, DeValue};

/// A configuration is some dozens of lines; a file beyond this is something else.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Where `beehive-cut` and the flag's unit look, too.
const DEFAULT_RUN_DIR: &str = "/run/beehive";
const DEFAULT_STATE_DIR: &str = "/var/lib/beehive";
const DEFAULT_HOST: &str = "127.0.0.1";
/// MQTT without TLS, and with it, as registered with IANA.
const DEFAULT_PORT: u16 = 1883;
const DEFAULT_TLS_PORT: u16 = crate::crew::broker::PORT;
/// What the shipped unit reads as root and gives to the daemon.
pub(crate) const DEFAULT_KEYS_DIR: &str = "/etc/beehive/identity";
/// An over-current should be seen within a second or so; one I2C transfer of a few bytes a second costs nothing.
const DEFAULT_POLL_MS: u64 = 1_000;
/// Below it the bus is busy for nothing; above it an over-current is old news.
const POLL_MS: Range<u64> = 100..60_001;
/// Below it a budget had no chance; above it no drain's deadline lies.
const BYPASS_MS: Range<u64> = 1_000..1_800_001;
/// A drain is over long before an hour is.
const GRACE_S: Range<u64> = 1..3_601;
/// The labels of the GPIO chips with the 40-pin header's lines: Pi 0 to 3, Pi 4.
const DEFAULT_CHIPS: [&str; 2] = ["pinctrl-bcm2835", "pinctrl-bcm2711"];
const DEFAULT_MAX_UNAVAILABLE: u16 = 1;
/// Ten joins at once are what a Pi as a control plane bears.
const DEFAULT_MAX_PARALLEL: u16 = 10;

/// What is in the file, with defaults for what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The crew.
    pub crew: CrewName,
    /// This node; by default the host's name.
    pub node: NodeName,
    /// Its part in the crew.
    pub role: Role,
    /// Where the state is that survives a restart.
    pub state_dir: PathBuf,
    /// Where the final hook reads the feed and the flag.
    pub run_dir: PathBuf,
    /// The broker.
    pub broker: BrokerConfig,
    /// Where this node's keys and certificates are.
    pub keys: KeysConfig,
    /// The engine.
    pub engine: EngineConfig,
    /// The way to the pins.
    pub pins: PinsConfig,
    /// The PoE HAT.
    pub poe_hat: PoeHatConfig,
    /// Where the power comes from, if the configuration decides it.
    pub feed: Option<Feed>,
    /// Whether the Pi's own LEDs are used.
    pub leds: Switch,
    /// The button's times; valid.
    pub button: Thresholds,
    /// The power sequence's times; valid.
    pub power: Deadlines,
    /// What the coordinator is told; there exactly where the role is master.
    pub cluster: Option<ClusterConfig>,
}

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it is spoken to over TLS, with the certificates in the folder of [`KeysConfig`].
    pub tls: TlsSwitch,
    /// Whether it may be elsewhere than on loopback without TLS.
    pub insecure_test_broker: bool,
}

/// Whether TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsSwitch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// Where this node's keys and certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysConfig {
    /// The folder.
    pub dir: PathBuf,
}

/// The way to the pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinsConfig {
    /// Which.
    pub backend: PinBackend,
    /// The labels of the GPIO chips that may be the right one; the first that is there is taken.
    pub chips: Vec<String>,
    /// Whether the SHIM's button is used.
    pub button: Switch,
}

/// The ways to the pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinBackend {
    /// The kernel's GPIO character device, by the crate gpiocdev.
    CharacterDevice,
    /// The crate rppal.
    Rppal,
    /// The character device, by the crate linux-embedded-hal.
    LinuxEmbeddedHal,
    /// No pins: they behave as if.
    Simulated,
    /// No pins.
    None,
}

impl PinBackend {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CharacterDevice => "character-device",
            Self::Rppal => "rppal",
            Self::LinuxEmbeddedHal => "linux-embedded-hal",
            Self::Simulated => "simulated",
            Self::None => "none",
        }
    }
}

/// The PoE HAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoeHatConfig {
    /// Where it is looked for.
    pub bus: HatBus,
    /// How often it is read, in milliseconds.
    pub poll_ms: u64,
}

/// Where a PoE HAT is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HatBus {
    /// Wherever it can be without disturbing the firmware.
    Auto,
    /// Nowhere.
    Off,
    /// At this I2C device.
    Path(PathBuf),
}

/// Whether something is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// If it is there.
    Auto,
    /// Not.
    Off,
}

/// What the coordinator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The nodes beside the master.
    pub nodes: Vec<NodeName>,
    /// How many nodes rolling work may drain or restart at a time.
    pub max_unavailable: u16,
    /// How many nodes are worked on at a time where the order does not matter.
    pub max_parallel: u16,
    /// The control plane's address, for the nodes that join; by default the master's name.
    pub server: Text<128>,
    /// What keeps rolling work from a node.
    pub blockers: Blockers,
    /// Says whether a node may be taken; with [`Blockers::command`].
    pub may_take: Option<OperatorCommand>,
    /// Lets a switch feed a Pi.
    pub switch_on: Option<OperatorCommand>,
    /// How nodes are drained by a real API server.
    pub drain: DrainSettings,
}

/// A program of the operator's, run as the daemon's user without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorCommand {
    /// Its path.
    pub program: PathBuf,
    /// What stands before the node's name.
    pub arguments: Vec<String>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A stable word: `file`, `syntax`, `value`, `missing`, `range`, `conflict`, `insecure`.
    pub kind: &'static str,
    /// Line and column, from 1, where they are known.
    pub at: Option<(usize, usize)>,
    /// What is wrong, and why.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// What is wrong with a configuration: one problem at least, in the order of the file's sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub origin: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { at, message, hint, .. }) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.origin)?;
            if let Some((line, column)) = at {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": {message}\n  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    crew: Option<String>,
    node: Option<String>,
    role: Option<String>,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    feed: Option<String>,
    leds: Option<String>,
    #[serde(default)]
    broker: RawBroker,
    #[serde(default)]
    keys: RawKeys,
    #[serde(default)]
    engine: RawEngine,
    #[serde(default)]
    pins: RawPins,
    #[serde(default)]
    poe_hat: RawPoeHat,
    #[serde(default)]
    button: Thresholds,
    #[serde(default)]
    power: Deadlines,
    cluster: Option<RawCluster>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawBroker {
    host: Option<String>,
    port: Option<u16>,
    tls: Option<String>,
    insecure_test_broker: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawKeys {
    dir: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawPins {
    backend: Option<String>,
    chips: Option<Vec<String>>,
    button: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawPoeHat {
    bus: Option<String>,
    poll_ms: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    #[serde(default)]
    nodes: Vec<String>,
    max_unavailable: Option<u16>,
    max_parallel: Option<u16>,
    server: Option<String>,
    #[serde(default)]
    switch_on: Vec<String>,
    #[serde(default)]
    blockers: RawBlockers,
    #[serde(default)]
    drain: RawDrain,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDrain {
    bare_pods: Option<String>,
    empty_dir: Option<String>,
    on_deadline: Option<String>,
    bypass_budget_after_ms: Option<u64>,
    grace_period_s: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawBlockers {
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    pods: Vec<String>,
    #[serde(default)]
    windows: Vec<String>,
    #[serde(default)]
    command: Vec<String>,
}

/// Collects what is wrong.
struct Check<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

/// A value that a problem is about, as the file writes it.
fn key_of(path: &[&str]) -> String {
    match path {
        [section, rest @ ..] if !rest.is_empty() => format!("{} in [{section}]", rest.join(".")),
        _ => path.join("."),
    }
}

impl Check<'_> {
    fn problem(&mut self, kind: &'static str, path: &[&str], message: String, hint: impl Into<String>) {
        // what is missing at the top is to be added at the top
        let at = line_and_column(self.text, locate(self.text, path).unwrap_or(0));
        self.problems.push(Problem { kind, at: Some(at), message, hint: hint.into() });
    }

    /// One of a few words.
    fn choice<T: Copy>(&mut self, path: &[&str], given: Option<&str>, default: T, choices: &[(&str, T)]) -> T {
        let Some(given) = given else { return default };
        match choices.iter().find(|(word, _)| *word == given) {
            Some((_, value)) => *value,
            None => {
                let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
                let message = format!("{} is {given:?}, which is none of its values", key_of(path));
                self.problem("value", path, message, format!("write one of {}", words.join(", ")));
                default
            }
        }
    }

    fn name<T: FromStr<Err: fmt::Display>>(&mut self, path: &[&str], given: &str, hint: &str) -> Option<T> {
        match given.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.problem("value", path, format!("{}: {given:?} {error}", key_of(path)), hint);
                None
            }
        }
    }

    fn within(&mut self, path: &[&str], given: u64, range: Range<u64>, why: &str) -> u64 {
        if !range.contains(&given) {
            let (least, most) = (range.start, range.end.saturating_sub(1));
            let message = format!("{} is {given}, which is not from {least} to {most}", key_of(path));
            self.problem("range", path, message, format!("choose one in that range: {why}"));
        }
        given
    }

    fn folder(&mut self, path: &[&str], given: Option<PathBuf>, default: &str) -> PathBuf {
        let folder = given.unwrap_or_else(|| PathBuf::from(default));
        if !folder.is_absolute() {
            let message =
                format!("{} is {:?}, which is not an absolute path", key_of(path), folder.display().to_string());
            self.problem("value", path, message, format!("write a path that begins with '/', such as {default:?}"));
        }
        folder
    }

    fn short<const N: usize>(&mut self, path: &[&str], given: &str) -> Text<N> {
        if given.len() > N {
            let message = format!("{} has {} bytes, more than {N}", key_of(path), given.len());
            self.problem("value", path, message, "shorten it");
        }
        Text::cut(given)
    }
}

/// Where the value at `path` begins, or the nearest section around it that the file has.
fn locate(text: &str, path: &[&str]) -> Option<usize> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut table = document.get_ref();
    let mut found = None;
    let mut path = path.iter();
    while let Some(key) = path.next() {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == key) else { break };
        match value.get_ref() {
            DeValue::Table(inner) => {
                found = Some(name.span().start);
                table = inner;
            }
            // one of several sections of the same name: the next part of the path is its number
            DeValue::Array(list) => {
                let one = path.clone().next().and_then(|index| list.get(index.parse::<usize>().ok()?));
                let Some((one, DeValue::Table(inner))) = one.map(|one| (one, one.get_ref())) else {
                    return Some(value.span().start);
                };
                path.next();
                found = Some(one.span().start);
                table = inner;
            }
            _ => return Some(value.span().start),
        }
    }
    found
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    (line, column)
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or something in it is wrong; see [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let fail = |message: String, hint: String| ConfigError {
            origin: origin.clone(),
            problems: vec![Problem { kind: "file", at: None, message, hint }],
        };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "write one (`beehive config example` prints all there is to set), or name \
                                            another file with --config"
                    .to_owned(),
                _ => "let the user that runs beehive read it".to_owned(),
            };
            fail(format!("cannot read the configuration: {error}"), hint)
        })?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let message = format!("has more than {MAX_FILE_BYTES} bytes, so it is no configuration");
            return Err(fail(message, "name the right file with --config".to_owned()));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &origin),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
                let mut failed = fail("is not UTF-8 text here".to_owned(), "save the file as UTF-8".to_owned());
                if let Some(problem) = failed.problems.first_mut() {
                    problem.at = Some(line_and_column(&good, good.len()));
                }
                Err(failed)
            }
        }
    }

    /// Reads a configuration from `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// If something in it is wrong; see [`ConfigError`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let system = rustix::system::uname();
        Self::parse_on(text, origin, &system.nodename().to_string_lossy())
    }

    /// As [`Config::parse`], on a host of the given name.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_on(text: &str, origin: &str, host_name: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|error| ConfigError { origin: origin.to_owned(), problems: vec![syntax(text, &error)] })?;
        let mut check = Check { text, problems: Vec::new() };
        match interpret(raw, host_name, &mut check) {
            Some(config) if check.problems.is_empty() => Ok(config),
            Some(_) | None => Err(ConfigError { origin: origin.to_owned(), problems: check.problems }),
        }
    }

    /// How far the broker is trusted.
    pub fn broker_trust(&self) -> BrokerTrust {
        match self.broker.tls {
            TlsSwitch::On => BrokerTrust::Tls,
            TlsSwitch::Off if is_loopback(&self.broker.host) => BrokerTrust::Loopback,
            TlsSwitch::Off => BrokerTrust::InsecureTest,
        }
    }

    /// Whether verbs that destroy are carried out when they come over the wire.
    pub fn destruction(&self) -> Destruction {
        match (self.engine.kind, self.broker_trust()) {
            (EngineKind::Simulated, BrokerTrust::Loopback | BrokerTrust::Tls | BrokerTrust::InsecureTest)
            | (EngineKind::K3s | EngineKind::Kubeadm, BrokerTrust::Loopback | BrokerTrust::Tls) => Destruction::Allowed,
            (EngineKind::K3s | EngineKind::Kubeadm, BrokerTrust::InsecureTest) => Destruction::RefusedInsecureWire,
        }
    }

    /// What the coordinator on this master is told.
    pub fn coordinator(&self) -> CoordinatorConfig {
        let cluster = self.cluster.clone().unwrap_or_else(|| ClusterConfig {
            nodes: Vec::new(),
            max_unavailable: DEFAULT_MAX_UNAVAILABLE,
            max_parallel: DEFAULT_MAX_PARALLEL,
            server: Text::cut(self.node.as_str()),
            blockers: Blockers::default(),
            may_take: None,
            switch_on: None,
            drain: DrainSettings::default(),
        });
        let switch = if cluster.switch_on.is_some() { PowerSwitch::Present } else { PowerSwitch::Absent };
        CoordinatorConfig {
            master: self.node.clone(),
            expected: cluster.nodes,
            max_unavailable: cluster.max_unavailable,
            max_parallel: cluster.max_parallel,
            server: cluster.server,
            blockers: cluster.blockers,
            switch,
            drain_ms: u64::from(self.power.prepare_ms),
            speaks: crate::link::speaks(),
            destruction: self.destruction(),
        }
    }

    /// The operator's own programs, for the coordinator on this master.
    pub fn outside(&self) -> Outside {
        let cluster = self.cluster.as_ref();
        Outside {
            may_take: cluster.and_then(|cluster| cluster.may_take.clone()),
            switch_on: cluster.and_then(|cluster| cluster.switch_on.clone()),
        }
    }

    /// How nodes are drained by a real API server.
    pub fn drain(&self) -> DrainSettings {
        self.cluster.as_ref().map(|cluster| cluster.drain).unwrap_or_default()
    }

    /// A configuration with every setting, its default and what it means: what `beehive config example` prints. It can
    /// be read back, and gives the defaults.
    pub fn to_toml_default(crew: &CrewName, node: &NodeName, role: Role) -> String {
        example(crew, node, role)
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let at = error.span().map(|span| line_and_column(text, span.start));
    let message = error.message().trim_end();
    match message.strip_prefix("unknown field ") {
        Some(rest) => Problem {
            kind: "syntax",
            at,
            message: format!("unknown key {rest}"),
            hint: "correct its name, or move it to the section that it belongs to; `beehive config example` prints all keys"
                .to_owned(),
        },
        None => Problem {
            kind: "syntax",
            at,
            message: plain(message),
            hint: "correct it; `beehive config example` prints every key with a value of the right type".to_owned(),
        },
    }
}

/// The parser's message without Rust's names for numbers.
fn plain(message: &str) -> String {
    let message = message.replace('\n', ", ");
    let numbers = [("u16", "from 0 to 65535"), ("u32", "from 0 to 4294967295"), ("u64", "from 0 on")];
    for (name, range) in numbers {
        if let Some(before) = message.strip_suffix(&format!("expected {name}")) {
            return format!("{before}expected a whole number {range}");
        }
    }
    message
}

fn interpret(raw: Raw, host_name: &str, check: &mut Check<'_>) -> Option<Config> {
    let crew = match &raw.crew {
        Some(crew) => check.name(&["crew"], crew, "write the crew's name, such as \"bee42-crew-01\""),
        None => {
            let hint = "add the crew's name at the top, such as crew = \"bee42-crew-01\"";
            check.problem("missing", &["crew"], "crew is missing".to_owned(), hint);
            None
        }
    };
    let node: Option<NodeName> = match &raw.node {
        Some(node) => check.name(&["node"], node, "write this Pi's name, such as \"bee42-crew-01-001\""),
        None => match host_name.parse() {
            Ok(node) => Some(node),
            Err(error) => {
                let message = format!("node is missing, and this host's name cannot stand in: {host_name:?} {error}");
                let hint = "add this Pi's name at the top, such as node = \"bee42-crew-01-001\", or rename the host";
                check.problem("missing", &["node"], message, hint);
                None
            }
        },
    };
    let roles = [("master", Some(Role::Master)), ("node", Some(Role::Node))];
    if raw.role.is_none() {
        let hint = "add role = \"master\" on the Pi that runs the coordinator, role = \"node\" on the others";
        check.problem("missing", &["role"], "role is missing".to_owned(), hint);
    }
    let role = check.choice(&["role"], raw.role.as_deref(), None, &roles);
    let state_dir = check.folder(&["state_dir"], raw.state_dir, DEFAULT_STATE_DIR);
    let run_dir = check.folder(&["run_dir"], raw.run_dir, DEFAULT_RUN_DIR);
    if state_dir == run_dir {
        let message = format!("state_dir and run_dir are both {:?}", state_dir.display().to_string());
        let hint = "give state_dir a folder on the SD card: run_dir is emptied at each boot";
        check.problem("conflict", &["state_dir"], message, hint);
    }
    let feeds =
        [("auto", None), ("shim", Some(Feed::Shim)), ("poe", Some(Feed::Poe)), ("unknown", Some(Feed::Unknown))];
    let feed = check.choice(&["feed"], raw.feed.as_deref(), None, &feeds);
    let switches = [("auto", Switch::Auto), ("off", Switch::Off)];
    let leds = check.choice(&["leds"], raw.leds.as_deref(), Switch::Auto, &switches);
    let broker = broker(raw.broker, check);
    let keys = KeysConfig { dir: check.folder(&["keys", "dir"], raw.keys.dir, DEFAULT_KEYS_DIR) };
    let engine = engine::engine(raw.engine, check);
    let pins = pins(raw.pins, &switches, check);
    let poe_hat = PoeHatConfig {
        bus: hat_bus(raw.poe_hat.bus.as_deref(), check),
        poll_ms: check.within(
            &["poe_hat", "poll_ms"],
            raw.poe_hat.poll_ms.unwrap_or(DEFAULT_POLL_MS),
            POLL_MS,
            "more often the bus is busy for nothing, more rarely an over-current is told too late",
        ),
    };
    if let Err(error) = raw.button.validate() {
        let hint = "change that time, or the other one that it is compared with";
        check.problem("range", &["button", error.name], format!("in [button], {error}"), hint);
    }
    if let Err(error) = raw.power.validate() {
        check.problem("range", &["power", error.name], format!("in [power], {error}"), "choose a time in that range");
    }
    let role = role?;
    let cluster = cluster(raw.cluster, role, node.as_ref(), check);
    Some(Config {
        crew: crew?,
        node: node?,
        role,
        state_dir,
        run_dir,
        broker,
        keys,
        engine,
        pins,
        poe_hat,
        feed,
        leds,
        button: raw.button,
        power: raw.power,
        cluster,
    })
}

fn broker(raw: RawBroker, check: &mut Check<'_>) -> BrokerConfig {
    let host = raw.host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
    let tls = [("on", TlsSwitch::On), ("off", TlsSwitch::Off)];
    let tls = check.choice(&["broker", "tls"], raw.tls.as_deref(), TlsSwitch::Off, &tls);
    let port = raw.port.unwrap_or(match tls {
        TlsSwitch::On => DEFAULT_TLS_PORT,
        TlsSwitch::Off => DEFAULT_PORT,
    });
    let insecure_test_broker = raw.insecure_test_broker.unwrap_or(false);
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let is_name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if !is_address && !is_name {
        let message = format!("host in [broker] is {host:?}, which is neither a host's name nor an IP address");
        let hint =
            "write the name or address alone: no \"mqtt://\" before it, and the port in its own key, port = 1883";
        check.problem("value", &["broker", "host"], message, hint);
    } else if tls == TlsSwitch::On && host.parse::<std::net::Ipv6Addr>().is_ok() {
        let message = format!("host in [broker] is {host:?}, and an IPv6 address cannot be used with tls = \"on\"");
        let hint =
            "write the broker's name instead, such as \"bee42-crew-01-001.local\"; its certificate holds for any";
        check.problem("value", &["broker", "host"], message, hint);
    } else if tls == TlsSwitch::Off && !is_loopback(&host) && !insecure_test_broker {
        let message = format!(
            "host in [broker] is {host:?}, which is not this machine's loopback, and without TLS anybody on the way reads \
             and changes what is sent there"
        );
        let hint = "add tls = \"on\" to [broker]; on a network of your own and for tests only, insecure_test_broker = true \
                    allows it without";
        check.problem("insecure", &["broker", "host"], message, hint);
    }
    if port == 0 {
        let hint = "write the broker's port, usually 1883";
        check.problem("range", &["broker", "port"], "port in [broker] is 0".to_owned(), hint);
    }
    BrokerConfig { host, port, tls, insecure_test_broker }
}

fn pins(raw: RawPins, switches: &[(&str, Switch)], check: &mut Check<'_>) -> PinsConfig {
    let backends = [
        PinBackend::CharacterDevice,
        PinBackend::Rppal,
        PinBackend::LinuxEmbeddedHal,
        PinBackend::Simulated,
        PinBackend::None,
    ]
    .map(|backend| (backend.as_str(), backend));
    let backend = check.choice(&["pins", "backend"], raw.backend.as_deref(), PinBackend::CharacterDevice, &backends);
    let button = check.choice(&["pins", "button"], raw.button.as_deref(), Switch::Auto, switches);
    let chips = raw.chips.unwrap_or_else(|| DEFAULT_CHIPS.map(str::to_owned).to_vec());
    if chips.is_empty() || chips.iter().any(String::is_empty) {
        let message = "chips in [pins] names no GPIO chip".to_owned();
        let hint = "write the chips' labels as gpiodetect shows them, or leave the key out; without a button, write \
                    button = \"off\"";
        check.problem("value", &["pins", "chips"], message, hint);
    }
    PinsConfig { backend, chips, button }
}

fn hat_bus(given: Option<&str>, check: &mut Check<'_>) -> HatBus {
    match given {
        None | Some("auto") => HatBus::Auto,
        Some("off") => HatBus::Off,
        Some(path) if path.starts_with("/dev/") => HatBus::Path(PathBuf::from(path)),
        Some(other) => {
            let message = format!("bus in [poe_hat] is {other:?}, which is none of its values");
            let hint = "write \"auto\", \"off\", or an I2C device such as \"/dev/i2c-1\"";
            check.problem("value", &["poe_hat", "bus"], message, hint);
            HatBus::Auto
        }
    }
}

fn cluster(
    raw: Option<RawCluster>,
    role: Role,
    node: Option<&NodeName>,
    check: &mut Check<'_>,
) -> Option<ClusterConfig> {
    match (role, &raw) {
        (Role::Node, Some(_)) => {
            let message = "there is a section [cluster], but the role is not \"master\"".to_owned();
            let hint = "remove the section; only the master's coordinator reads it";
            check.problem("conflict", &["cluster"], message, hint);
            return None;
        }
        (Role::Node, None) => return None,
        (Role::Master, Some(_)) => {}
        (Role::Master, None) => {
            let message = "the role is \"master\", but there is no section [cluster]".to_owned();
            let hint = "add [cluster] with nodes = [\"bee42-crew-01-002\", …], the nodes beside the master";
            check.problem("missing", &["role"], message, hint);
            return None;
        }
    }
    let raw = raw?;
    let path = ["cluster", "nodes"];
    let mut nodes: Vec<NodeName> = Vec::new();
    for given in &raw.nodes {
        let hint = "write the nodes' names, such as \"bee42-crew-01-002\"";
        let Some(name) = check.name::<NodeName>(&path, given, hint) else { continue };
        if nodes.contains(&name) {
            let message = format!("nodes in [cluster] names {given:?} twice");
            check.problem("conflict", &path, message, "remove one of them");
        } else if Some(&name) != node {
            nodes.push(name);
        }
    }
    if nodes.len() + 1 > MAX_NODES {
        let message = format!(
            "nodes in [cluster] names {} nodes beside the master, more than the {} that a crew may have",
            nodes.len(),
            MAX_NODES - 1
        );
        check.problem("range", &path, message, "make a second crew");
    }
    let counts = 1..MAX_NODES as u64 + 1;
    let mut count = |key, given: Option<u16>, default: u16, why: &str| {
        let given = given.unwrap_or(default);
        check.within(&["cluster", key], u64::from(given), counts.clone(), why);
        given
    };
    let max_unavailable = count(
        "max_unavailable",
        raw.max_unavailable,
        DEFAULT_MAX_UNAVAILABLE,
        "with none, rolling work could not begin; a crew has no more",
    );
    let max_parallel = count(
        "max_parallel",
        raw.max_parallel,
        DEFAULT_MAX_PARALLEL,
        "with none, nothing could begin; a crew has no more",
    );
    let server = match raw.server.as_deref() {
        Some("") => {
            let hint = "write the address at which the nodes reach the control plane, or leave the key out";
            check.problem("value", &["cluster", "server"], "server in [cluster] is empty".to_owned(), hint);
            Text::new()
        }
        Some(server) => check.short(&["cluster", "server"], server),
        None => Text::cut(node.map_or("", NodeName::as_str)),
    };
    let switch_on = command(&["cluster", "switch_on"], &raw.switch_on, check);
    let may_take = command(&["cluster", "blockers", "command"], &raw.blockers.command, check);
    let blockers = blockers(&raw.blockers, may_take.as_ref(), check);
    let drain = drain(&raw.drain, check);
    Some(ClusterConfig { nodes, max_unavailable, max_parallel, server, blockers, may_take, switch_on, drain })
}

fn drain(raw: &RawDrain, check: &mut Check<'_>) -> DrainSettings {
    let losses = [("refuse", OnLoss::Refuse), ("delete", OnLoss::Delete)];
    let mut loss = |key, given: Option<&str>| check.choice(&["cluster", "drain", key], given, OnLoss::Refuse, &losses);
    let bare_pods = loss("bare_pods", raw.bare_pods.as_deref());
    let empty_dir = loss("empty_dir", raw.empty_dir.as_deref());
    let ends = [("give-up", OnDeadline::GiveUp), ("delete", OnDeadline::Delete)];
    let path = ["cluster", "drain", "on_deadline"];
    let on_deadline = check.choice(&path, raw.on_deadline.as_deref(), OnDeadline::GiveUp, &ends);
    let bypass_budget_after_ms = raw.bypass_budget_after_ms.filter(|after| *after > 0).map(|after| {
        let why = "0 is never; a budget needs some time to allow an eviction, and prepare_ms in [power] ends the drain";
        check.within(&["cluster", "drain", "bypass_budget_after_ms"], after, BYPASS_MS, why)
    });
    let grace_period_s = raw.grace_period_s.filter(|grace| *grace > 0);
    if let Some(grace) = grace_period_s {
        let why = "0 leaves it to the pod; a drain is over long before an hour is";
        check.within(&["cluster", "drain", "grace_period_s"], u64::from(grace), GRACE_S, why);
    }
    DrainSettings { bare_pods, empty_dir, on_deadline, bypass_budget_after_ms, grace_period_s }
}

/// A program and its arguments; none where nothing is written.
fn command(path: &[&str], given: &[String], check: &mut Check<'_>) -> Option<OperatorCommand> {
    let (program, arguments) = given.split_first()?;
    if !program.starts_with('/') {
        let message = format!("{} begins with {program:?}, which is not an absolute path", key_of(path));
        check.problem("value", path, message, "write the program's whole path, such as \"/usr/local/bin/poe-on\"");
    }
    Some(OperatorCommand { program: PathBuf::from(program), arguments: arguments.to_vec() })
}

fn blockers(raw: &RawBlockers, command: Option<&OperatorCommand>, check: &mut Check<'_>) -> Blockers {
    fn each<T: FromStr<Err: fmt::Display>>(key: &str, given: &[String], hint: &str, check: &mut Check<'_>) -> Vec<T> {
        let path = ["cluster", "blockers", key];
        given.iter().filter_map(|one| check.name::<T>(&path, one, hint)).collect()
    }
    let nodes = each("nodes", &raw.nodes, "write the nodes' names, such as \"bee42-crew-01-002\"", check);
    let selector = "write a selector such as \"app=db\", \"!batch\" or \"app=db,tier!=test\"";
    let labels = each("labels", &raw.labels, selector, check);
    let mut pods = Vec::new();
    for given in &raw.pods {
        // a key may hold a slash too: a namespace has neither dot nor sign before its slash
        let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let (namespace, rest) = match given.split_once(": ") {
            Some((namespace, rest)) if plain(namespace) => (Some(namespace.to_owned()), rest),
            Some(_) | None => (None, given.as_str()),
        };
        let hint = "write a selector such as \"app=db\", with a namespace in front as in \"data: app=db\"";
        if let Some(selector) = check.name(&["cluster", "blockers", "pods"], rest, hint) {
            pods.push(PodSelector { namespace, selector });
        }
    }
    let windows = each("windows", &raw.windows, "write a window such as \"mon-fri 01:00-05:00\"", check);
    let command = if command.is_some() { AsksCommand::Yes } else { AsksCommand::No };
    Blockers { nodes, labels, pods, windows, command }
}

fn example(crew: &CrewName, node: &NodeName, role: Role) -> String {
    let Thresholds {
        debounce_ms,
        short_max_ms,
        double_gap_ms,
        hold_ms,
        reset_from_ms,
        reset_until_ms,
        confirm_after_ms,
        confirm_within_ms,
        stuck_after_ms,
    } = Thresholds::default();
    let Deadlines { grace_ms, prepare_ms, stop_ms, hand_over_ms } = Deadlines::default();
    let [chip_a, chip_b] = DEFAULT_CHIPS;
    let role_word = match role {
        Role::Master => "master",
        Role::Node => "node",
    };
    let cluster = match role {
        Role::Node => String::new(),
        Role::Master => format!(
            r#"
# For the coordinator, on the master only.
[cluster]
# The nodes beside the master.
nodes = []
# How many nodes rolling work may drain or restart at a time.
# max_unavailable = {DEFAULT_MAX_UNAVAILABLE}
# How many nodes are worked on at a time where the order does not matter.
# max_parallel = {DEFAULT_MAX_PARALLEL}
# The address at which the nodes reach the control plane; by default the master's name.
# server = "{node}"
# A program that lets a PoE switch feed a Pi, for `cluster start`; it is run with the Pi's name as last argument, and must change
# nothing for one that is on: ["/usr/local/bin/poe-on", "--switch", "10.0.0.2"].
# switch_on = []

# What keeps rolling work (reboot, upgrade, drain, leave and shutdown of a node) from a node; --force sets it aside.
[cluster.blockers]
# These are left alone.
# nodes = []
# Nodes with one of these labels are left alone: "key", "!key", "key=value", "key!=value", several with commas.
# labels = []
# A node is left alone while such a pod runs on it; with a namespace in front: "data: app=db".
# pods = []
# Nothing begins outside of these, in the master's own time: "mon-fri 01:00-05:00", "22:00-04:00".
# windows = []
# A program that is asked with the node's name as last argument: it ends with 0 if the node may be taken, else it says why not in
# its first line. 12 s at most: ["/usr/local/bin/may-take"].
# command = []

# How a node is drained by a real engine's API server, within prepare_ms of [power]. Pods of daemon sets, mirror pods and pods that
# have finished are left alone.
[cluster.drain]
# Pods that no controller makes anew: "refuse" the drain before anything is evicted, or "delete" them.
# bare_pods = "refuse"
# Pods with an emptyDir, whose data is lost: "refuse" or "delete".
# empty_dir = "refuse"
# When the time is over: "give-up" (the node is uncordoned), or "delete" in its last quarter what is left, whatever budget holds it.
# on_deadline = "give-up"
# After so long a pod that a disruption budget holds is deleted; 0 is never.
# bypass_budget_after_ms = 0
# How many seconds a pod gets to end; 0 is as many as it asks for.
# grace_period_s = 0
"#
        ),
    };
    format!(
        r#"# beehive on this Pi. `beehive config check` says whether all is well. Lines that are commented out show the defaults.

# The crew: one Kubernetes cluster of Pis.
crew = "{crew}"
# This Pi; by default its host name.
node = "{node}"
# "master" on the Pi that runs the coordinator and the control plane, "node" on the others.
role = "{role_word}"

# State that survives a restart; on the SD card. The daemon writes there and in run_dir alone: another place is its user's to
# write, and named in a drop-in of beehive.service with ReadWritePaths=.
# state_dir = "{DEFAULT_STATE_DIR}"
# What the final hook reads; it expects it here.
# run_dir = "{DEFAULT_RUN_DIR}"

# What feeds this Pi. Only "shim" is ever cut.
#   "auto"     no PoE HAT: shim; a PoE+ HAT: by its current; another HAT: unknown
#   "shim", "poe", "unknown"    you know the cabling
# feed = "auto"
# The Pi's own LEDs: "auto" or "off".
# leds = "auto"

[broker]
# host = "{DEFAULT_HOST}"
# port = {DEFAULT_PORT}
# "on" or "off". The broker's certificate bears the crew's name, so any name or address of it will do; port is 8883 then.
# tls = "off"
# Without TLS a broker elsewhere than on this machine's loopback is refused. For tests, on a network of your own:
# insecure_test_broker = false

[keys]
# This node's keys and certificates, as `beehive crew init` made them: root's, and nobody else reads them. systemd gives the daemon
# those in the default folder; in another one they are the user's beehive. New ones count after `systemctl restart beehive`.
# dir = "{DEFAULT_KEYS_DIR}"

{engine}
[pins]
# The way to the pins: "character-device", "rppal", "linux-embedded-hal", "simulated" or "none".
# backend = "{backend}"
# The labels of the GPIO chips that may be the right one.
# chips = ["{chip_a}", "{chip_b}"]
# The SHIM's button: "auto" or "off".
# button = "auto"

[poe_hat]
# Where a PoE HAT is looked for: "auto", "off", or an I2C device such as "/dev/i2c-1".
# bus = "auto"
# How often it is read.
# poll_ms = {DEFAULT_POLL_MS}

# When a press is what, in milliseconds.
[button]
# A level shorter than this is bounce.
# debounce_ms = {debounce_ms}
# The longest short press (show the status).
# short_max_ms = {short_max_ms}
# The longest gap between the two presses of a double (reboot).
# double_gap_ms = {double_gap_ms}
# From here a release means power off.
# hold_ms = {hold_ms}
# From here a release arms the reset of this Pi, which a short press then confirms.
# reset_from_ms = {reset_from_ms}
# From here a release means nothing any more.
# reset_until_ms = {reset_until_ms}
# The confirming press begins so long after the release at the earliest, and at the latest.
# confirm_after_ms = {confirm_after_ms}
# confirm_within_ms = {confirm_within_ms}
# From here the button counts as stuck.
# stuck_after_ms = {stuck_after_ms}

# How long each part of a shutdown may take, in milliseconds. What goes on longer does not hold it up.
[power]
# To change one's mind.
# grace_ms = {grace_ms}
# Cordon and drain.
# prepare_ms = {prepare_ms}
# The engine's stop.
# stop_ms = {stop_ms}
# systemd, until it is asked more firmly.
# hand_over_ms = {hand_over_ms}
{cluster}"#,
        engine = engine::example(),
        backend = PinBackend::CharacterDevice.as_str(),
    )
}

#[cfg(test)]
mod tests;
