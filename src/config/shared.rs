//! `crew.toml`: what the configurations of a crew's Pis have in common, in the sections of `beehive.toml`, and by the same
//! rules: what is wrong in one of these is found by what reads a Pi's own configuration.

use std::net::{IpAddr, Ipv6Addr};

use beehive_board::gesture::Thresholds;
use beehive_board::power::Deadlines;
use beehive_mqtt::node::Role;
use beehive_mqtt::{MAX_NODES, NodeName, Text, UserName};
use serde::Deserialize;

use super::engine::{self, RawEngine};
use super::{
    Check, ConfigError, Problem, Raw, RawBroker, RawCluster, RawKeys, RawPins, RawPoeHat, interpret, key_of, syntax,
};
use crate::crew::file::{CrewFile, CrewNode, JoinWhen, Network};

/// `crew.toml` as it is written. Each section that `beehive.toml` has too is the same one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCrew {
    crew: Option<String>,
    #[serde(default)]
    operators: Vec<String>,
    join: Option<String>,
    feed: Option<String>,
    leds: Option<String>,
    #[serde(default)]
    network: RawNetwork,
    #[serde(default)]
    broker: RawBroker,
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
    #[serde(default)]
    cluster: RawCluster,
    #[serde(default)]
    node: Vec<RawNode>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    domain: Option<String>,
    server: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Option<String>,
    role: Option<String>,
    address: Option<String>,
    advertise_address: Option<String>,
    feed: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    taints: Vec<String>,
}

/// What `crew.toml` alone has at its top; the rest is `beehive.toml`'s.
const OF_THE_CREW: [&str; 5] = ["crew", "operators", "join", "network", "node"];

/// What feeds a Pi, as the configuration writes it.
const FEEDS: [&str; 4] = ["auto", "shim", "poe", "unknown"];

/// The section `[engine]` of `beehive config example`, without what is one Pi's own.
pub(crate) fn engine_example() -> String {
    let of_one = |line: &&str| !line.starts_with("# advertise_address");
    let lines = engine::example();
    let mut text: String = lines.lines().filter(of_one).map(|line| format!("{line}\n")).collect();
    text = text.replace("with which this node registers", "with which every node registers");
    text = text.replace("whose address is this node's", "whose address is a node's");
    text.replace(", or the address itself; empty means", "; empty means")
}

/// Reads a crew file from `text`; `origin` names it in errors.
pub(crate) fn crew_file(text: &str, origin: &str) -> Result<CrewFile, ConfigError> {
    let failed = |problems: Vec<Problem>| ConfigError { origin: origin.to_owned(), problems };
    let unreadable = |error: &toml::de::Error| {
        let mut problem = syntax(text, error);
        problem.hint =
            "correct it, or move it to the section that it belongs to; docs/crew-files.md says what may stand in a \
                        crew file, and `beehive config example` prints what its sections hold"
                .to_owned();
        failed(vec![problem])
    };
    let raw: RawCrew = toml::from_str(text).map_err(|error| unreadable(&error))?;
    let mut settings: toml::Table = toml::from_str(text).map_err(|error| unreadable(&error))?;
    settings.retain(|key, _| !OF_THE_CREW.contains(&key));
    without_empty(&mut settings);
    let mut check = Check { text, problems: Vec::new() };
    let file = interpret_crew(raw, settings, &mut check);
    check.problems.sort_by_key(|problem| problem.at);
    match file {
        Some(file) if check.problems.is_empty() => Ok(file),
        Some(_) | None => Err(failed(check.problems)),
    }
}

/// A section in which everything is commented out says nothing.
fn without_empty(table: &mut toml::Table) {
    table.retain(|_, value| match value.as_table_mut() {
        Some(inner) => {
            without_empty(inner);
            !inner.is_empty()
        }
        None => true,
    });
}

fn interpret_crew(mut raw: RawCrew, settings: toml::Table, check: &mut Check<'_>) -> Option<CrewFile> {
    let nodes = nodes(&raw.node, check);
    let operators = operators(&raw.operators, check);
    let network = network(&raw.network, check);
    let join = join(raw.join.as_deref(), check);
    only_of_one(&raw, check);
    // what is wrong with the nodes has been said; the rest is checked all the same
    let master = nodes.iter().find(|node| node.role == Role::Master).or(nodes.first()).cloned();
    let master = master.unwrap_or_else(|| CrewNode::new(stand_in()));
    raw.broker.host = Some(match raw.broker.host.take().filter(|host| !host.is_empty()) {
        Some(host) => host,
        None => network.broker_host(&master),
    });
    raw.broker.tls = Some(raw.broker.tls.take().unwrap_or_else(|| "on".to_owned()));
    raw.engine.advertise_address = None;
    raw.cluster.server = None;
    raw.cluster.nodes = nodes.iter().take(MAX_NODES).map(|node| node.name.to_string()).collect();
    let of_master = Raw {
        crew: raw.crew,
        node: Some(master.name.to_string()),
        role: Some("master".to_owned()),
        state_dir: None,
        run_dir: None,
        feed: raw.feed,
        leds: raw.leds,
        broker: raw.broker,
        keys: RawKeys::default(),
        engine: raw.engine,
        pins: raw.pins,
        poe_hat: raw.poe_hat,
        button: raw.button,
        power: raw.power,
        cluster: Some(raw.cluster),
    };
    let config = interpret(of_master, master.name.as_str(), check)?;
    Some(CrewFile {
        crew: config.crew,
        operators,
        join,
        nodes,
        network,
        broker: config.broker,
        engine: config.engine,
        settings,
    })
}

/// A name for a master that is not there; it is never shown.
fn stand_in() -> NodeName {
    match "master".parse() {
        Ok(name) => name,
        Err(_) => unreachable!("'master' is a name"),
    }
}

/// Settings that are one Pi's, or have another place in a crew file.
fn only_of_one(raw: &RawCrew, check: &mut Check<'_>) {
    if raw.engine.advertise_address.is_some() {
        let message = "advertise_address in [engine] would be the address of every node".to_owned();
        let hint = "move it to the [[node]] that has it; interface in [engine] names the interface of all";
        check.problem("conflict", &["engine", "advertise_address"], message, hint);
    }
    if !raw.cluster.nodes.is_empty() {
        let message = "nodes in [cluster] stands in a crew file, which lists its nodes in another place".to_owned();
        check.problem("conflict", &["cluster", "nodes"], message, "remove the key, and write a [[node]] for each one");
    }
    if raw.cluster.server.is_some() {
        let message = "server in [cluster] stands in a crew file, which has it in another place".to_owned();
        check.problem("conflict", &["cluster", "server"], message, "move it to [network]");
    }
}

fn join(given: Option<&str>, check: &mut Check<'_>) -> JoinWhen {
    match given {
        None | Some("when-told") => JoinWhen::WhenTold,
        Some("at-once") => JoinWhen::AtOnce,
        Some(other) => {
            let message = format!("join is {other:?}, which is none of its values");
            check.problem("value", &["join"], message, "write one of \"at-once\", \"when-told\"");
            JoinWhen::WhenTold
        }
    }
}

fn operators(given: &[String], check: &mut Check<'_>) -> Vec<UserName> {
    let mut operators: Vec<UserName> = Vec::new();
    for word in given {
        let hint = "write names of a-z, 0-9 and '-', such as \"ann\"";
        let Some(user) = check.name::<UserName>(&["operators"], word, hint) else { continue };
        if operators.contains(&user) {
            let message = format!("operators names {word:?} twice");
            check.problem("conflict", &["operators"], message, "remove one of them");
        } else {
            operators.push(user);
        }
    }
    operators
}

fn network(raw: &RawNetwork, check: &mut Check<'_>) -> Network {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (domain, server) = (given(&raw.domain), given(&raw.server));
    if let Some(domain) = &domain {
        let path = ["network", "domain"];
        if !engine::is_host(domain) || domain.parse::<IpAddr>().is_ok() {
            let message = format!("{} is {domain:?}, which is no domain", key_of(&path));
            let hint = "write what follows the Pis' names, without a dot before it, such as \"local\"";
            check.problem("value", &path, message, hint);
        }
    }
    if let Some(server) = &server {
        let path = ["network", "server"];
        check.short::<128>(&path, server);
        if !engine::is_host_and_port(server) {
            let message = format!("{} is {server:?}, which is neither a host's name nor an address", key_of(&path));
            let hint = "write where the nodes reach the control plane, such as \"bee42-crew-01-001.local\"";
            check.problem("value", &path, message, hint);
        }
    }
    Network { domain, server }
}

fn nodes(raw: &[RawNode], check: &mut Check<'_>) -> Vec<CrewNode> {
    if raw.is_empty() {
        let hint = "add a [[node]] with name = \"bee42-crew-01-001\" for each Pi; the first one is the master unless another \
                    one has role = \"master\"";
        check.problem("missing", &["node"], "the crew has no nodes".to_owned(), hint);
    }
    if raw.len() > MAX_NODES {
        let message = format!("the crew has {} nodes, more than the {MAX_NODES} that one may have", raw.len());
        check.problem("range", &["node"], message, "make a second crew");
    }
    let mut nodes: Vec<CrewNode> = Vec::new();
    let mut master: Option<NodeName> = None;
    let any_master = raw.iter().any(|node| node.role.as_deref() == Some("master"));
    for (index, given) in raw.iter().enumerate() {
        let number = index.to_string();
        let at = |key: &'static str| ["node", number.as_str(), key];
        let Some(name) = given.name.as_deref() else {
            let message = format!("the {}. [[node]] has no name", index + 1);
            check.problem("missing", &["node", &number], message, "add name = \"bee42-crew-01-001\", its host name");
            continue;
        };
        let name: NodeName = match name.parse() {
            Ok(name) => name,
            Err(error) => {
                let message = format!("name of the {}. [[node]]: {name:?} {error}", index + 1);
                check.problem("value", &at("name"), message, "write the Pi's host name, such as \"bee42-crew-01-001\"");
                continue;
            }
        };
        if nodes.iter().any(|node| node.name == name) {
            let message = format!("there are two nodes {name}");
            check.problem("conflict", &at("name"), message, "remove one of them, or correct its name");
            continue;
        }
        let role = match given.role.as_deref() {
            Some("master") => Role::Master,
            Some("node") => Role::Node,
            None if index == 0 && !any_master => Role::Master,
            None => Role::Node,
            Some(other) => {
                let message = format!("role of {name} is {other:?}, which is none of its values");
                check.problem("value", &at("role"), message, "write one of \"master\", \"node\"");
                Role::Node
            }
        };
        if role == Role::Master {
            if let Some(first) = master.replace(name.clone()) {
                let message = format!("{first} and {name} are both the master");
                check.problem("conflict", &at("role"), message, "a crew has one master: make one of them a \"node\"");
            }
        }
        nodes.push(node(given, name, role, &number, check));
    }
    if master.is_none() && !nodes.is_empty() {
        let message = "no node is the master".to_owned();
        check.problem("missing", &["node"], message, "write role = \"master\" in the [[node]] that coordinates");
    }
    nodes
}

fn node(given: &RawNode, name: NodeName, role: Role, number: &str, check: &mut Check<'_>) -> CrewNode {
    let at = |key: &'static str| ["node", number, key];
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let address = text(&given.address);
    if let Some(address) = &address {
        if !engine::is_host(address) {
            let message = format!("address of {name} is {address:?}, which is neither a host's name nor an IP address");
            check.problem("value", &at("address"), message, "write where this Pi is found, such as \"10.0.0.7\"");
        }
    }
    let advertise_address = text(&given.advertise_address).and_then(|address| match address.parse::<IpAddr>() {
        Ok(address) => Some(address),
        Err(error) => {
            let message = format!("advertise_address of {name}: {address:?}: {error}");
            let hint = "write this node's IP address, such as \"10.0.0.7\"";
            check.problem("value", &at("advertise_address"), message, hint);
            None
        }
    });
    let feed = given.feed.clone();
    if let Some(feed) = feed.as_deref().filter(|feed| !FEEDS.contains(feed)) {
        let message = format!("feed of {name} is {feed:?}, which is none of its values");
        let words: Vec<String> = FEEDS.iter().map(|word| format!("{word:?}")).collect();
        check.problem("value", &at("feed"), message, format!("write one of {}", words.join(", ")));
    }
    let mut words = |key: &'static str, given: &[String], wrong: fn(&str) -> Option<String>| {
        for word in given {
            if let Some(hint) = wrong(word) {
                let message = format!("{key} of {name} names {word:?}, which cannot stand there");
                check.problem("value", &at(key), message, hint);
            }
        }
        given.to_vec()
    };
    let labels = words("labels", &given.labels, |word| engine::label(word).err());
    let taints = words("taints", &given.taints, |word| engine::taint(word).err());
    CrewNode { name, role, address, advertise_address, feed, labels, taints }
}

impl Network {
    /// Where a node is found: its address, else its name with the domain.
    pub fn host_of(&self, node: &CrewNode) -> String {
        match (&node.address, &self.domain) {
            (Some(address), _) => address.clone(),
            (None, Some(domain)) => format!("{}.{domain}", node.name),
            (None, None) => node.name.to_string(),
        }
    }

    /// Where the broker on `master` is found, if nothing else is said.
    fn broker_host(&self, master: &CrewNode) -> String {
        let by_name = CrewNode { address: None, ..master.clone() };
        match &master.address {
            // over TLS it has to be a name; and what is no address at all has been told where it stands
            Some(address) if address.parse::<Ipv6Addr>().is_ok() || !engine::is_host(address) => self.host_of(&by_name),
            Some(_) | None => self.host_of(master),
        }
    }

    /// Where the nodes reach the control plane on `master`.
    pub fn server_of(&self, master: &CrewNode) -> Text<128> {
        Text::cut(self.server.as_deref().unwrap_or(&self.host_of(master)))
    }
}
