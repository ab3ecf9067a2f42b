//! Crew files: `crew.toml` describes a whole crew, in one place on the operator's machine. The configuration of each Pi is
//! made from it, an Ansible inventory can be, and the console finds the crew's broker by it.
//!
//! Its sections are those of `beehive.toml`, for what is the same on all Pis, and are checked by the same rules. Nothing in
//! it is secret: the keys lie beside it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`ansible`] | an inventory to and from a crew file; pure |
//! | [`crews`] | several crews side by side, and which one is meant |
//! | [`command`] | the commands |

pub mod ansible;
pub mod command;
pub mod crews;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use beehive_mqtt::manifest::Manifest;
use beehive_mqtt::node::Role;
use beehive_mqtt::{CrewName, NodeName, UserName};
use toml::{Table, Value};

use super::files;
use crate::cli::Broker;
use crate::config::{BrokerConfig, Config, ConfigError, EngineConfig, Problem, shared};

/// The file's name in the crew's folder.
pub const CREW_FILE: &str = "crew.toml";

/// What the master's own broker is to it.
const LOOPBACK: &str = "127.0.0.1";

/// A crew, as its file describes it; valid.
#[derive(Debug, Clone, PartialEq)]
pub struct CrewFile {
    /// Its name.
    pub crew: CrewName,
    /// Who gets an operator's keys from `beehive crew init`.
    pub operators: Vec<UserName>,
    /// What happens to a node that was enrolled.
    pub join: JoinWhen,
    /// Its nodes; exactly one is the master.
    pub nodes: Vec<CrewNode>,
    /// How they find one another.
    pub network: Network,
    /// The broker, as the nodes beside the master reach it.
    pub broker: BrokerConfig,
    /// The engine, as every node has it.
    pub engine: EngineConfig,
    /// The sections of `beehive.toml` that it has, as they are written.
    pub settings: Table,
}

/// When a node that was enrolled joins the cluster, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JoinWhen {
    /// `beehive crew enrol` asks for it.
    AtOnce,
    /// Somebody does: `beehive node join`.
    #[default]
    WhenTold,
}

impl JoinWhen {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "at-once",
            Self::WhenTold => "when-told",
        }
    }
}

/// How the Pis find one another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// What follows the Pis' names, such as `local`.
    pub domain: Option<String>,
    /// Where the nodes reach the control plane, if not at the master's name or address.
    pub server: Option<String>,
}

/// One Pi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrewNode {
    /// Its name, which is its host name.
    pub name: NodeName,
    /// Its part in the crew.
    pub role: Role,
    /// Where it is found, if not by its name.
    pub address: Option<String>,
    /// Its address in the cluster, if not that of the interface.
    pub advertise_address: Option<IpAddr>,
    /// What feeds it, if that is not the same for all.
    pub feed: Option<String>,
    /// Its labels beside those that all have.
    pub labels: Vec<String>,
    /// Its taints beside those that all have.
    pub taints: Vec<String>,
}

impl CrewNode {
    /// A node of which nothing but its name is known.
    pub fn new(name: NodeName) -> Self {
        Self {
            name,
            role: Role::Node,
            address: None,
            advertise_address: None,
            feed: None,
            labels: Vec::new(),
            taints: Vec::new(),
        }
    }
}

/// Why there is no configuration for a Pi.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// The crew has no such node.
    #[error(
        "there is no node {node} in the crew file; its nodes are {known}. Check the name, or add a [[node]] for it"
    )]
    UnknownNode {
        /// Who was asked for.
        node: NodeName,
        /// Who is there.
        known: String,
    },
    /// It would not be valid.
    #[error("{0}")]
    Invalid(#[from] ConfigError),
    /// It cannot be written down.
    #[error("the configuration cannot be written: {0}")]
    Write(#[from] toml::ser::Error),
}

impl CrewFile {
    /// Reads the crew file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or something in it is wrong; see [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        match files::read(path) {
            Ok(text) => Self::parse(&text, &origin),
            Err(error) => {
                let hint =
                    "`beehive crew init NAME` makes a crew with its file, `beehive crew import` one from an inventory";
                let problem = Problem { kind: "file", at: None, message: error.to_string(), hint: hint.to_owned() };
                Err(ConfigError { origin, problems: vec![problem] })
            }
        }
    }

    /// Reads a crew file from `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// If something in it is wrong; see [`ConfigError`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        shared::crew_file(text, origin)
    }

    /// The master.
    pub fn master(&self) -> Option<&CrewNode> {
        self.nodes.iter().find(|node| node.role == Role::Master)
    }

    /// The names of all nodes, the master's first.
    pub fn names(&self) -> Vec<NodeName> {
        let of = |role| self.nodes.iter().filter(move |node| node.role == role).map(|node| node.name.clone());
        of(Role::Master).chain(of(Role::Node)).collect()
    }

    /// Whether the broker is on the master.
    pub fn hosts_broker_on_master(&self) -> bool {
        self.master().is_some_and(|master| self.broker.host == self.network.host_of(master))
    }

    /// The broker, as the console reaches it.
    pub fn console_broker(&self) -> Broker {
        Broker { host: self.broker.host.clone(), port: self.broker.port, tls: self.broker.tls }
    }

    /// The configuration of one Pi of the crew: the text of its `/etc/beehive/beehive.toml`. It is valid: it has been read
    /// back.
    ///
    /// # Errors
    /// If the crew has no such node, or what comes out is not valid, such as too many labels with those of all.
    pub fn node_config(&self, node: &NodeName) -> Result<String, NodeConfigError> {
        let unknown = || NodeConfigError::UnknownNode {
            node: node.clone(),
            known: self.names().iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "),
        };
        let found = self.nodes.iter().find(|known| known.name == *node).ok_or_else(unknown)?;
        let table = self.node_table(found);
        let text = format!(
            "# beehive on this Pi, of crew {}. Made of the crew's file; `beehive crew config {node}` makes it anew.\n\n{}",
            self.crew,
            toml::to_string(&table)?
        );
        Config::parse_on(&text, &format!("the configuration of {node}"), node.as_str())?;
        Ok(text)
    }

    fn node_table(&self, node: &CrewNode) -> Table {
        let mut table = self.settings.clone();
        let string = |text: &str| Value::String(text.to_owned());
        table.insert("crew".to_owned(), string(self.crew.as_str()));
        table.insert("node".to_owned(), string(node.name.as_str()));
        table.insert("role".to_owned(), string(role_word(node.role)));
        if let Some(feed) = &node.feed {
            table.insert("feed".to_owned(), string(feed));
        }
        let on_master = self.hosts_broker_on_master();
        let host = match node.role {
            // it is on this machine, and found there without anybody's help
            Role::Master if on_master => LOOPBACK,
            Role::Master | Role::Node => self.broker.host.as_str(),
        };
        let broker = section(&mut table, "broker");
        broker.insert("host".to_owned(), string(host));
        broker.insert("port".to_owned(), Value::Integer(self.broker.port.into()));
        broker.entry("tls").or_insert_with(|| string("on"));
        let engine = section(&mut table, "engine");
        for (key, words) in [("labels", &node.labels), ("taints", &node.taints)] {
            if !words.is_empty() {
                if let Value::Array(all) = engine.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
                    all.extend(words.iter().map(|word| string(word)));
                }
            }
        }
        if let Some(address) = node.advertise_address {
            engine.insert("advertise_address".to_owned(), string(&address.to_string()));
        }
        match node.role {
            Role::Master => {
                let others = self.nodes.iter().filter(|other| other.role == Role::Node);
                let others = others.map(|other| string(other.name.as_str())).collect();
                let server = self.network.server_of(node);
                let cluster = section(&mut table, "cluster");
                cluster.insert("nodes".to_owned(), Value::Array(others));
                cluster.insert("server".to_owned(), string(server.as_str()));
            }
            Role::Node => {
                table.remove("cluster");
            }
        }
        if section(&mut table, "engine").is_empty() {
            table.remove("engine");
        }
        table
    }

    /// Where each of its nodes is found.
    pub fn hosts(&self) -> BTreeMap<NodeName, String> {
        self.nodes.iter().map(|node| (node.name.clone(), self.network.host_of(node))).collect()
    }

    /// The file's text, with every setting, its default and what it means. It can be read back, and gives the same.
    pub fn to_toml(&self) -> String {
        Draft {
            crew: self.crew.as_str(),
            operators: self.operators.iter().map(UserName::as_str).collect(),
            join: self.join,
            nodes: &self.nodes,
            network: &self.network,
            settings: &self.settings,
        }
        .to_toml()
    }

    /// What this file and the crew's manifest, which is what counts, do not have in common; one sentence each.
    pub fn differences(&self, manifest: &Manifest) -> Vec<String> {
        let mut found = Vec::new();
        for entry in &manifest.nodes {
            match self.nodes.iter().find(|node| node.name == entry.name).map(|node| node.role) {
                None => found.push(format!("add a [[node]] with name = \"{}\"", entry.name)),
                Some(Role::Node) if entry.name == manifest.coordinator => {
                    found.push(format!(
                        "{} coordinates: give it role = \"master\", and the others \"node\"",
                        entry.name
                    ));
                }
                Some(Role::Master | Role::Node) => {}
            }
        }
        let gone = self.nodes.iter().filter(|node| manifest.node(&node.name).is_none());
        found.extend(gone.map(|node| format!("remove the [[node]] {}, which is not in the manifest", node.name)));
        found
    }
}

fn section<'a>(table: &'a mut Table, name: &str) -> &'a mut Table {
    let value = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if !value.is_table() {
        // a valid file has none such
        *value = Value::Table(Table::new());
    }
    match value {
        Value::Table(section) => section,
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Array(_) => unreachable!("it has just been made a table"),
    }
}

/// A role as the configuration writes it.
pub(crate) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Node => "node",
    }
}

/// What a crew file is to say; not yet checked.
#[derive(Debug, Clone)]
struct Draft<'a> {
    crew: &'a str,
    operators: Vec<&'a str>,
    join: JoinWhen,
    nodes: &'a [CrewNode],
    network: &'a Network,
    settings: &'a Table,
}

impl Draft<'_> {
    fn to_toml(&self) -> String {
        let Self { crew, operators, join, nodes, network, settings } = self;
        let empty = Table::new();
        let of = |name: &str| settings.get(name).and_then(Value::as_table).unwrap_or(&empty);
        let master = nodes.iter().find(|node| node.role == Role::Master).or(nodes.first());
        let host = master.map(|master| network.host_of(master)).unwrap_or_default();
        let top: Table =
            ["feed", "leds"].into_iter().filter_map(|key| Some((key.to_owned(), settings.get(key)?.clone()))).collect();
        let mut top = top;
        if *join != JoinWhen::default() {
            top.insert("join".to_owned(), Value::String(join.as_str().to_owned()));
        }
        let mut network_table = Table::new();
        for (key, value) in [("domain", &network.domain), ("server", &network.server)] {
            if let Some(value) = value {
                network_table.insert(key.to_owned(), Value::String(value.clone()));
            }
        }
        let head = format!(
            r#"# A crew of Pis: who is in it, its engine, its network. Nothing in here is secret. `beehive crew config NODE` makes the
# configuration of one Pi of it. Lines that are commented out show the defaults.

crew = {crew}
# Who gets an operator's keys when `beehive crew init` makes them.
operators = {operators}
"#,
            crew = Value::String((*crew).to_owned()),
            operators = Value::Array(operators.iter().map(|user| Value::String((*user).to_owned())).collect()),
        );
        let top = with(
            r#"# When a node that `beehive crew enrol` let in joins the cluster, if there is one: "at-once" or "when-told".
# join = "when-told"
# What feeds the Pis, where it is the same for all: "auto", "shim", "poe" or "unknown"; and their own LEDs, "auto" or "off".
# feed = "auto"
# leds = "auto"
"#,
            &top,
        );
        let network_text = with(
            &format!(
                r#"[network]
# What follows the Pis' names, such as "local" for mDNS; empty means that they are found by their names alone.
# domain = ""
# Where the nodes reach the control plane; by default the master.
# server = "{host}"
"#
            ),
            &network_table,
        );
        let broker = with(
            &format!(
                r#"[broker]
# By default on the master. The console finds it here too.
# host = "{host}"
# port = {port}
# tls = "on"
# Without TLS a broker elsewhere than on loopback is refused. For tests, on a network of your own:
# insecure_test_broker = false
"#,
                port = super::broker::PORT,
            ),
            of("broker"),
        );
        let mut engine_settings = of("engine").clone();
        let mirrors = engine_settings.remove("mirrors");
        let mut engine = with(&shared::engine_example(), &engine_settings);
        for (registry, endpoints) in mirrors.iter().filter_map(Value::as_table).flatten() {
            engine.push_str(&format!("{} = {endpoints}\n", Value::String(registry.clone())));
        }
        let mut text = format!("{head}{top}\n{network_text}\n{broker}\n{engine}\n");
        text.push_str(
            "# The sections [pins], [poe_hat], [button], [power] and [cluster] (without nodes and server) of beehive.toml may stand\n\
             # here too, for all Pis: `beehive config example` prints them.\n\n",
        );
        let known = ["feed", "leds", "broker", "engine"];
        let rest: Table = settings
            .iter()
            .filter(|(name, _)| !known.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !rest.is_empty() {
            text.push_str(&format!("{rest}\n"));
        }
        text.push_str(
            r#"# The Pis. role is "master" for exactly one, else "node". What else may stand with one:
#   address = "10.0.0.7"              where it is found, if not by its name
#   advertise_address = "10.0.0.7"    its address in the cluster, if not that of interface in [engine]
#   feed = "shim"                     what feeds it
#   labels, taints                    beside those of all: labels = ["disk=ssd"]
"#,
        );
        for node in *nodes {
            text.push_str(&node_section(node));
        }
        text
    }
}

fn node_section(node: &CrewNode) -> String {
    let string = |text: &str| Value::String(text.to_owned());
    let mut text =
        format!("\n[[node]]\nname = {}\nrole = {}\n", string(node.name.as_str()), string(role_word(node.role)));
    let advertised = node.advertise_address.map(|address| address.to_string());
    for (key, value) in [("address", &node.address), ("advertise_address", &advertised), ("feed", &node.feed)] {
        if let Some(value) = value {
            text.push_str(&format!("{key} = {}\n", string(value)));
        }
    }
    for (key, words) in [("labels", &node.labels), ("taints", &node.taints)] {
        if !words.is_empty() {
            let words = Value::Array(words.iter().map(|word| string(word)).collect());
            text.push_str(&format!("{key} = {words}\n"));
        }
    }
    text
}

/// The `template`, with the `settings` in place of the lines that show their defaults.
fn with(template: &str, settings: &Table) -> String {
    let mut text = String::new();
    let mut put = Vec::new();
    for line in template.lines() {
        let key = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")).map(|(key, _)| key);
        match key.and_then(|key| settings.get_key_value(key)) {
            Some((key, value)) => {
                put.push(key);
                text.push_str(&format!("{key} = {value}\n"));
            }
            None => text.push_str(&format!("{line}\n")),
        }
    }
    debug_assert_eq!(put.len(), settings.len(), "the template has a line for each key");
    text
}

#[cfg(test)]
mod tests;
