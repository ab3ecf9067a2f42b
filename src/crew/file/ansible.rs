//! An Ansible inventory, in its INI form, to and from a crew file.
//!
//! Hosts stand in `[crew-master]` and `[crew-nodes]`, or in groups that are `children` of these; a group whose children hold
//! both bears the crew's name. Settings are variables `beehive_SECTION_KEY`, with JSON for lists, which Ansible reads too.
//! What else is in an inventory (`ansible_user`, passwords) concerns Ansible alone: it is left out, and its name is told.

use std::collections::{BTreeMap, BTreeSet};

use beehive_mqtt::node::Role;
use beehive_mqtt::{CrewName, MAX_NODES, NodeName};
use toml::{Table, Value};

use super::{CrewFile, CrewNode, Draft, JoinWhen, Network};
use crate::config::{ConfigError, Problem};

/// The master's group.
const MASTER: &str = "crew-master";
/// The group of the others.
const NODES: &str = "crew-nodes";
/// The group that every host is in.
const ALL: &str = "all";
/// The crew's group where the crew bears the name of another one.
const SUBSTITUTE: &str = "beehive";
/// What the names of our variables begin with.
const OURS: &str = "beehive_";
/// Where Ansible finds a host.
const ADDRESS: &str = "ansible_host";
/// The crew's name, where no group bears it.
const CREW: &str = "beehive_crew";
/// An inventory of one crew has some dozens of hosts; a range beyond this is a slip.
const MAX_HOSTS: usize = 4 * MAX_NODES;

/// What a variable's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Number,
    Truth,
    List,
    Map,
}

/// The crew's settings that an inventory carries. Commands of the operator's own are not among them: an argument may be a
/// password.
const SETTINGS: [(&str, &str, Kind); 24] = [
    ("network", "domain", Kind::Word),
    ("network", "server", Kind::Word),
    ("broker", "host", Kind::Word),
    ("broker", "port", Kind::Number),
    ("broker", "tls", Kind::Word),
    ("broker", "insecure_test_broker", Kind::Truth),
    ("engine", "kind", Kind::Word),
    ("engine", "version", Kind::Word),
    ("engine", "daemon_user", Kind::Word),
    ("engine", "artefacts", Kind::Word),
    ("engine", "add_ons", Kind::Word),
    ("engine", "mirrors", Kind::Map),
    ("engine", "pre_pull", Kind::List),
    ("engine", "labels", Kind::List),
    ("engine", "taints", Kind::List),
    ("engine", "interface", Kind::Word),
    ("engine", "tls_sans", Kind::List),
    ("engine", "kubelet_args", Kind::List),
    ("engine", "pod_cidr", Kind::Word),
    ("engine", "service_cidr", Kind::Word),
    ("engine", "disable", Kind::List),
    ("engine", "snapshots", Kind::Number),
    ("cluster", "max_unavailable", Kind::Number),
    ("cluster", "max_parallel", Kind::Number),
];

/// The operators, who have no section.
const OPERATORS: &str = "beehive_operators";

/// What one host may have beside its address.
const OF_A_HOST: [(&str, Kind); 4] = [
    ("beehive_labels", Kind::List),
    ("beehive_taints", Kind::List),
    ("beehive_feed", Kind::Word),
    ("beehive_advertise_address", Kind::Word),
];

/// A crew that was read from an inventory.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The crew.
    pub file: CrewFile,
    /// The text of its file.
    pub text: String,
    /// The names of what was left out: variables of Ansible's, and hosts that are in no group of the crew's.
    pub left_out: Vec<String>,
}

fn problem(kind: &'static str, line: Option<usize>, message: String, hint: impl Into<String>) -> Problem {
    Problem { kind, at: line.map(|line| (line, 1)), message, hint: hint.into() }
}

/// A variable's name and value, as they are written.
#[derive(Debug, Clone)]
struct Variable {
    name: String,
    value: String,
    line: usize,
}

#[derive(Debug, Default)]
struct Group {
    hosts: Vec<String>,
    children: Vec<(String, usize)>,
    variables: Vec<Variable>,
}

#[derive(Debug, Default)]
struct Host {
    variables: Vec<Variable>,
    line: usize,
}

#[derive(Debug, Default)]
struct Inventory {
    groups: BTreeMap<String, Group>,
    hosts: BTreeMap<String, Host>,
}

/// What a line belongs to.
enum Section {
    Hosts(String),
    Children(String),
    Variables(String),
}

impl Inventory {
    fn read(text: &str) -> Result<Self, Problem> {
        let mut inventory = Self::default();
        let mut section = Section::Hosts(ALL.to_owned());
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') {
                section = header(line, number)?;
                let (Section::Hosts(name) | Section::Children(name) | Section::Variables(name)) = &section;
                inventory.groups.entry(name.clone()).or_default();
                continue;
            }
            match &section {
                Section::Hosts(group) => inventory.host(group, line, number)?,
                Section::Children(group) => {
                    let child = words(line, number)?.into_iter().next().unwrap_or_default();
                    inventory.groups.entry(group.clone()).or_default().children.push((child, number));
                }
                Section::Variables(group) => {
                    let (name, value) = assignment(line, number)?;
                    let variable = Variable { name, value, line: number };
                    inventory.groups.entry(group.clone()).or_default().variables.push(variable);
                }
            }
        }
        for group in inventory.groups.values() {
            for (child, line) in &group.children {
                if !inventory.groups.contains_key(child) {
                    let message = format!("there is no group [{child}]");
                    return Err(problem("value", Some(*line), message, "correct its name, or add the group"));
                }
            }
        }
        Ok(inventory)
    }

    fn host(&mut self, group: &str, line: &str, number: usize) -> Result<(), Problem> {
        let mut words = words(line, number)?.into_iter();
        let pattern = words.next().unwrap_or_default();
        let mut variables = Vec::new();
        for word in words {
            let (name, value) = assignment(&word, number)?;
            variables.push(Variable { name, value, line: number });
        }
        for name in expanded(without_port(&pattern), number)? {
            let host = self.hosts.entry(name.clone()).or_insert_with(|| Host { line: number, ..Host::default() });
            host.variables.extend(variables.iter().cloned());
            let hosts = &mut self.groups.entry(group.to_owned()).or_default().hosts;
            if !hosts.contains(&name) {
                hosts.push(name);
            }
        }
        if self.hosts.len() > MAX_HOSTS {
            let message = format!("these are more than {MAX_HOSTS} hosts");
            return Err(problem("range", Some(number), message, format!("a crew has {MAX_NODES} nodes at most")));
        }
        Ok(())
    }

    /// The hosts of a group and of its children, in the order in which they are written. A circle ends where it began.
    fn members(&self, group: &str) -> Vec<String> {
        fn collect(inventory: &Inventory, name: &str, seen: &mut BTreeSet<String>, into: &mut Vec<String>) {
            if !seen.insert(name.to_owned()) {
                return;
            }
            let Some(group) = inventory.groups.get(name) else { return };
            for host in &group.hosts {
                if !into.contains(host) {
                    into.push(host.clone());
                }
            }
            for (child, _) in &group.children {
                collect(inventory, child, seen, into);
            }
        }
        if group == ALL {
            return self.hosts.keys().cloned().collect();
        }
        let mut hosts = Vec::new();
        collect(self, group, &mut BTreeSet::new(), &mut hosts);
        hosts
    }
}

/// `[group]`, `[group:children]` or `[group:vars]`.
fn header(line: &str, number: usize) -> Result<Section, Problem> {
    let form = "write [GROUP], [GROUP:children] or [GROUP:vars]";
    let wrong = |what: String| problem("syntax", Some(number), what, form);
    let (inside, rest) =
        line[1..].split_once(']').ok_or_else(|| wrong("a ']' is missing after the group's name".to_owned()))?;
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with(['#', ';']) {
        return Err(wrong(format!("{rest:?} stands after the ']'")));
    }
    let (name, kind) = inside.trim().split_once(':').unwrap_or((inside.trim(), ""));
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(wrong(format!("{name:?} is no group's name")));
    }
    let name = name.to_owned();
    match kind {
        "" => Ok(Section::Hosts(name)),
        "children" => Ok(Section::Children(name)),
        "vars" => Ok(Section::Variables(name)),
        other => Err(wrong(format!("{other:?} is nothing that a group has"))),
    }
}

fn assignment(text: &str, number: usize) -> Result<(String, String), Problem> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        // the word itself may be a password that lost its name
        let message = "a word has no '=', so it is no variable".to_owned();
        problem("syntax", Some(number), message, "write NAME=VALUE, with quotes around a value that has spaces")
    })?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// The words of a host's line, as a shell would split them; a '#' outside of quotes begins a comment.
fn words(line: &str, number: usize) -> Result<Vec<String>, Problem> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some('"'), '\\') => match characters.next_if(|next| matches!(next, '"' | '\\')) {
                Some(next) => word.get_or_insert_default().push(next),
                None => word.get_or_insert_default().push('\\'),
            },
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '#') => break,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    if let Some(open) = quote {
        let message = format!("a closing {open} is missing");
        return Err(problem("syntax", Some(number), message, "close the quote on the same line"));
    }
    words.extend(word);
    Ok(words)
}

/// A host may be written with the port of its SSH server, which is nothing of ours.
fn without_port(pattern: &str) -> &str {
    let outside = pattern.rsplit(']').next().unwrap_or(pattern);
    match outside.split_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let end = pattern.len() - port.len() - 1;
            pattern.get(..end).unwrap_or(pattern)
        }
        Some(_) | None => pattern,
    }
}

/// The hosts of a pattern such as `pi-[001:005]`, `pi-[1:9:2]` or `pi-[a:c]`.
fn expanded(pattern: &str, number: usize) -> Result<Vec<String>, Problem> {
    let wrong = |what: &str| {
        let message = format!("{pattern:?}: {what}");
        problem("syntax", Some(number), message, "write a range such as bee42-crew-01-[002:005] or pi-[a:c]")
    };
    let Some((before, rest)) = pattern.split_once('[') else {
        if pattern.contains(']') {
            return Err(wrong("a '[' is missing before the ']'"));
        }
        return Ok(vec![pattern.to_owned()]);
    };
    let (range, after) = rest.split_once(']').ok_or_else(|| wrong("a ']' is missing after the range"))?;
    let parts: Vec<&str> = range.split(':').collect();
    let (first, last, step) = match parts.as_slice() {
        [first, last] => (*first, *last, "1"),
        [first, last, step] => (*first, *last, *step),
        _ => return Err(wrong("a range has a first and a last, with ':' between them")),
    };
    let step: usize =
        step.parse().ok().filter(|step| *step > 0).ok_or_else(|| wrong("its step is no number from 1"))?;
    let letter = |text: &str| match text.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => Some(*letter),
        _ => None,
    };
    let mut middle: Vec<String> = Vec::new();
    match (letter(first), letter(last)) {
        (Some(from), Some(to)) if from <= to => {
            middle.extend((from..=to).step_by(step).map(|letter| char::from(letter).to_string()));
        }
        (Some(_), Some(_)) => return Err(wrong("its last comes before its first")),
        (_, _) => {
            let digits = |text: &str| {
                let plain = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<usize>()
                    .ok()
                    .filter(|_| plain)
                    .ok_or_else(|| wrong("its ends are neither numbers nor letters"))
            };
            let (from, to) = (digits(if first.is_empty() { "0" } else { first })?, digits(last)?);
            let padded = first.len() > 1 && first.starts_with('0');
            if padded && first.len() != last.len() {
                return Err(wrong("its first and last have not the same number of digits"));
            }
            if from > to {
                return Err(wrong("its last comes before its first"));
            }
            if (to - from) / step >= MAX_HOSTS {
                return Err(wrong("it has too many hosts"));
            }
            let width = if padded { first.len() } else { 0 };
            middle.extend((from..=to).step_by(step).map(|value| format!("{value:0width$}")));
        }
    }
    let mut hosts = Vec::new();
    for ending in expanded(after, number)? {
        hosts.extend(middle.iter().map(|middle| format!("{before}{middle}{ending}")));
        if hosts.len() > MAX_HOSTS {
            return Err(wrong("it has too many hosts"));
        }
    }
    Ok(hosts)
}

/// A value as the crew file has it. Ansible reads Python's literals; JSON is what both understand, and a list in single
/// quotes is what people write.
fn value(variable: &Variable, kind: Kind) -> Result<Value, Problem> {
    let wrong = |hint: &str| {
        let message = format!("{} is not what belongs there", variable.name);
        problem("value", Some(variable.line), message, hint)
    };
    let text = variable.value.as_str();
    match kind {
        Kind::Word => {
            let quoted = text.len() > 1 && text.starts_with('"') && text.ends_with('"');
            let single = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
            match (quoted, single) {
                (true, _) => serde_json::from_str(text).map(Value::String).map_err(|_| wrong("correct its quotes")),
                (false, Some(inner)) => Ok(Value::String(inner.to_owned())),
                (false, None) => Ok(Value::String(text.to_owned())),
            }
        }
        Kind::Number => {
            let text = text.split('#').next().unwrap_or_default().trim();
            text.parse::<u32>().map(|number| Value::Integer(number.into())).map_err(|_| wrong("write a whole number"))
        }
        Kind::Truth => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" => Ok(Value::Boolean(true)),
            "false" | "no" => Ok(Value::Boolean(false)),
            _ => Err(wrong("write True or False")),
        },
        Kind::List | Kind::Map => {
            let json: Option<serde_json::Value> =
                serde_json::from_str(text)
                    .or_else(|error| {
                        if text.contains('"') { Err(error) } else { serde_json::from_str(&text.replace('\'', "\"")) }
                    })
                    .ok();
            let list = |value: &serde_json::Value| -> Option<Value> {
                let words = value.as_array()?.iter().map(|word| Some(Value::String(word.as_str()?.to_owned())));
                words.collect::<Option<Vec<Value>>>().map(Value::Array)
            };
            match kind {
                Kind::Map => json
                    .as_ref()
                    .and_then(serde_json::Value::as_object)
                    .and_then(|map| map.iter().map(|(key, value)| Some((key.clone(), list(value)?))).collect())
                    .map(Value::Table)
                    .ok_or_else(|| {
                        wrong("write lists by name, such as {\"docker.io\": [\"https://mirror.local:5000\"]}")
                    }),
                Kind::Word | Kind::Number | Kind::Truth | Kind::List => json
                    .as_ref()
                    .and_then(list)
                    .ok_or_else(|| wrong("write a list such as [\"one\", \"two\"], on a host's line within '…'")),
            }
        }
    }
}

/// Everything that is found on the way from an inventory to a crew.
struct Reader<'a> {
    inventory: &'a Inventory,
    problems: Vec<Problem>,
    left_out: BTreeSet<String>,
    /// Where each setting of the crew is written.
    lines: BTreeMap<(String, String), usize>,
}

impl Reader<'_> {
    fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    /// The variable of a host that counts: its own, else that of the smallest group that it is in.
    fn of_host(&self, host: &str, name: &str) -> Option<Variable> {
        let last = |variables: &[Variable]| variables.iter().rev().find(|variable| variable.name == name).cloned();
        let own = self.inventory.hosts.get(host).and_then(|found| last(&found.variables));
        own.or_else(|| {
            let mut groups: Vec<(usize, &Group)> = Vec::new();
            for (group_name, group) in &self.inventory.groups {
                let members = self.inventory.members(group_name);
                if members.iter().any(|member| member == host) {
                    groups.push((members.len(), group));
                }
            }
            groups.sort_by_key(|(size, _)| *size);
            groups.iter().find_map(|(_, group)| last(&group.variables))
        })
    }

    fn node(&mut self, host: &str, role: Role) -> Option<(CrewNode, usize)> {
        let line = self.inventory.hosts.get(host)?.line;
        let (short, domain) = host.split_once('.').unwrap_or((host, ""));
        let name: Result<NodeName, Problem> = short.parse().map_err(|error| {
            let hint = "write the Pi's host name, and its address beside it: bee42-crew-01-001 ansible_host=10.0.0.7";
            problem("value", Some(line), format!("{host:?} cannot be a node's name: {error}"), hint)
        });
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let name = match (is_address, name) {
            (true, _) => {
                let hint = format!("write the Pi's host name, and its address beside it: NAME ansible_host={host}");
                self.problems.push(problem("value", Some(line), format!("{host} is an address, not a name"), hint));
                return None;
            }
            (false, name) => self.keep(name)?,
        };
        let mut node = CrewNode { role, ..CrewNode::new(name) };
        if !domain.is_empty() {
            node.address = Some(host.to_owned());
        }
        let own = &self.inventory.hosts.get(host)?.variables;
        if let Some(address) = own.iter().rev().find(|variable| variable.name == ADDRESS) {
            match self.keep(value(address, Kind::Word))? {
                Value::String(address) if address == node.name.as_str() => {}
                Value::String(address) => node.address = Some(address),
                _ => {}
            }
        }
        for (name, kind) in OF_A_HOST {
            let Some(variable) = self.of_host(host, name) else { continue };
            let Some(given) = self.keep(value(&variable, kind)) else { continue };
            let words = || -> Vec<String> {
                given.as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
            };
            let word = given.as_str();
            match name {
                "beehive_labels" => node.labels = words(),
                "beehive_taints" => node.taints = words(),
                "beehive_feed" => node.feed = word.map(str::to_owned),
                _ => match word.unwrap_or_default().parse() {
                    Ok(address) => node.advertise_address = Some(address),
                    Err(_) => self.problems.push(problem(
                        "value",
                        Some(variable.line),
                        format!("{name} of {host} is no IP address"),
                        "write this node's address, such as 10.0.0.7",
                    )),
                },
            }
        }
        Some((node, line))
    }

    /// What groups say about the crew as a whole.
    fn settings(&mut self, groups: &BTreeSet<String>) -> (Table, Vec<String>, Option<String>) {
        let (mut settings, mut operators, mut crew) = (Table::new(), Vec::new(), None::<String>);
        let mut said: BTreeMap<String, (Value, usize)> = BTreeMap::new();
        let inventory = self.inventory;
        let variables =
            groups.iter().filter_map(|group| inventory.groups.get(group)).flat_map(|group| &group.variables);
        for variable in variables {
            let name = variable.name.as_str();
            let known = SETTINGS.iter().find(|(section, key, _)| variable_name(section, key) == name);
            let kind = match (known, name) {
                (Some((_, _, kind)), _) => *kind,
                (None, OPERATORS) => Kind::List,
                (None, CREW) => Kind::Word,
                (None, ADDRESS) => {
                    let message = "ansible_host of a group would be the address of each of its hosts".to_owned();
                    self.problems.push(problem(
                        "conflict",
                        Some(variable.line),
                        message,
                        "write it on the host's line",
                    ));
                    continue;
                }
                (None, _) => continue,
            };
            let Some(given) = self.keep(value(variable, kind)) else { continue };
            match said.get(name) {
                Some((before, line)) if *before != given => {
                    let message = format!("{name} is another one here than in line {line}, and a crew has one");
                    self.problems.push(problem("conflict", Some(variable.line), message, "remove one of them"));
                    continue;
                }
                Some(_) | None => said.insert(name.to_owned(), (given.clone(), variable.line)),
            };
            match (known, given) {
                (Some((section, key, _)), given) => {
                    self.lines.insert(((*section).to_owned(), (*key).to_owned()), variable.line);
                    super::section(&mut settings, section).insert((*key).to_owned(), given);
                }
                (None, Value::Array(users)) => {
                    self.lines.insert((String::new(), "operators".to_owned()), variable.line);
                    operators = users.iter().filter_map(|user| Some(user.as_str()?.to_owned())).collect();
                }
                (None, given) => {
                    self.lines.insert((String::new(), "crew".to_owned()), variable.line);
                    crew = given.as_str().map(str::to_owned);
                }
            }
        }
        (settings, operators, crew)
    }

    /// Variables that nobody here understands: ours are slips, the others are Ansible's.
    fn strangers(&mut self) {
        let inventory = self.inventory;
        let of_groups = inventory.groups.values().flat_map(|group| &group.variables).map(|variable| (variable, false));
        let of_hosts = inventory.hosts.values().flat_map(|host| &host.variables).map(|variable| (variable, true));
        let mut told = BTreeSet::new();
        for (variable, on_host) in of_groups.chain(of_hosts) {
            let name = variable.name.as_str();
            if name == ADDRESS || OF_A_HOST.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let of_crew = [CREW, OPERATORS].contains(&name)
                || SETTINGS.iter().any(|(section, key, _)| variable_name(section, key) == name);
            match (name.starts_with(OURS), of_crew, on_host) {
                (_, true, false) => {}
                (_, true, true) if told.insert(variable.line) => {
                    let message = format!("{name} stands with one host, and it is the same for the whole crew");
                    let hint = "move it to the [CREW:vars] of the crew's group";
                    self.problems.push(problem("conflict", Some(variable.line), message, hint));
                }
                (true, false, _) if told.insert(variable.line) => {
                    let message = format!("{name} is no variable of beehive's");
                    let hint = "correct it: docs/crew-files.md lists them, as beehive_SECTION_KEY of the crew file";
                    self.problems.push(problem("value", Some(variable.line), message, hint));
                }
                (true, _, _) | (_, true, true) => {}
                (false, false, _) => {
                    self.left_out.insert(name.to_owned());
                }
            }
        }
    }
}

fn variable_name(section: &str, key: &str) -> String {
    format!("{OURS}{section}_{key}")
}

/// Reads an inventory; `origin` names it in errors. The crew bears `name`, else the variable `beehive_crew`, else the name
/// of the group that has `crew-master` among its children.
///
/// # Errors
/// If something in it is wrong; see [`ConfigError`]. What is told is never a value of one of Ansible's own variables.
pub fn import(text: &str, origin: &str, name: Option<&CrewName>) -> Result<Imported, ConfigError> {
    let failed = |problems: Vec<Problem>| ConfigError { origin: origin.to_owned(), problems };
    let inventory = Inventory::read(text).map_err(|problem| failed(vec![problem]))?;
    let mut reader =
        Reader { inventory: &inventory, problems: Vec::new(), left_out: BTreeSet::new(), lines: BTreeMap::new() };
    let masters = inventory.members(MASTER);
    let others = inventory.members(NODES);
    if masters.is_empty() {
        let hint = "add the group [crew-master] with the Pi that coordinates; the others stand in [crew-nodes]";
        return Err(failed(vec![problem("missing", None, "no host is in [crew-master]".to_owned(), hint)]));
    }
    let line_of = |host: &String| inventory.hosts.get(host).map(|host| host.line);
    for host in masters.iter().skip(1) {
        let message = format!("{host} is a second host in [crew-master], and a crew has one master");
        reader.problems.push(problem("conflict", line_of(host), message, "move it to [crew-nodes]"));
    }
    for host in others.iter().filter(|host| masters.contains(host)) {
        let message = format!("{host} is in [crew-master] and in [crew-nodes]");
        reader.problems.push(problem("conflict", line_of(host), message, "remove it from one of them"));
    }
    let parents: Vec<&String> = inventory
        .groups
        .iter()
        .filter(|(name, group)| *name != ALL && group.children.iter().any(|(child, _)| child == MASTER))
        .map(|(name, _)| name)
        .collect();
    // settings of the crew stand in whatever group the master or the nodes are in
    let ours: BTreeSet<String> = (inventory.groups.keys())
        .filter(|group| {
            let members = inventory.members(group);
            group.as_str() == ALL || members.iter().any(|host| masters.contains(host) || others.contains(host))
        })
        .cloned()
        .collect();
    let (settings, operators, said) = reader.settings(&ours);
    reader.strangers();
    let crew = match (name, said, parents.as_slice()) {
        (Some(name), _, _) => name.to_string(),
        (None, Some(said), _) => said,
        (None, None, [parent]) => (*parent).clone(),
        (None, None, parents) => {
            let message = match parents.len() {
                0 => "no group has crew-master among its children, so the crew has no name".to_owned(),
                _ => "more than one group has crew-master among its children, so the crew has no name".to_owned(),
            };
            let hint = "name it with --name, or add [NAME:children] with crew-master and crew-nodes";
            reader.problems.push(problem("missing", None, message, hint));
            String::new()
        }
    };
    let mut nodes = Vec::new();
    let mut node_lines = Vec::new();
    let in_order = masters.iter().map(|host| (host, Role::Master)).chain(others.iter().map(|host| (host, Role::Node)));
    for (host, role) in in_order {
        if let Some((node, line)) = reader.node(host, role) {
            nodes.push(node);
            node_lines.push(line);
        }
    }
    for host in inventory.hosts.keys().filter(|host| !masters.contains(host) && !others.contains(host)) {
        reader.left_out.insert(format!("host {host}"));
    }
    if !reader.problems.is_empty() {
        reader.problems.sort_by_key(|problem| problem.at);
        return Err(failed(reader.problems));
    }
    let (network, settings) = split(settings);
    for node in &mut nodes {
        let by_name = network.host_of(&CrewNode { address: None, ..node.clone() });
        node.address.take_if(|address| *address == by_name);
    }
    let operators = operators.iter().map(String::as_str).collect();
    let join = JoinWhen::default();
    let text = Draft { crew: &crew, operators, join, nodes: &nodes, network: &network, settings: &settings }.to_toml();
    match CrewFile::parse(&text, origin) {
        Ok(file) => Ok(Imported { file, text, left_out: reader.left_out.into_iter().collect() }),
        Err(mut error) => {
            for problem in &mut error.problems {
                problem.at = problem.at.and_then(|(line, _)| source(&text, line, &reader.lines, &node_lines));
            }
            Err(error)
        }
    }
}

/// The section `[network]`, and the others.
fn split(mut settings: Table) -> (Network, Table) {
    let network = settings.remove("network");
    let word = |key: &str| {
        let given = network.as_ref().and_then(|network| network.get(key)).and_then(Value::as_str);
        given.filter(|given| !given.is_empty()).map(str::to_owned)
    };
    (Network { domain: word("domain"), server: word("server") }, settings)
}

/// Where in the inventory that stands which came to be `line` of the crew file's text.
fn source(
    text: &str,
    line: usize,
    settings: &BTreeMap<(String, String), usize>,
    nodes: &[usize],
) -> Option<(usize, usize)> {
    let (mut section, mut count, mut key) = (String::new(), 0_usize, String::new());
    for written in text.lines().take(line) {
        if written == "[[node]]" {
            count += 1;
        }
        match written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(header) => header.clone_into(&mut section),
            None => key = written.split(" = ").next().unwrap_or_default().to_owned(),
        }
    }
    let line = match (section.as_str(), count) {
        (_, 1..) => nodes.get(count - 1),
        ("engine.mirrors", 0) => settings.get(&("engine".to_owned(), "mirrors".to_owned())),
        (_, 0) => settings.get(&(section, key)),
    };
    line.map(|line| (*line, 1))
}

/// The crew as an inventory. Neither keys nor anything else that is secret is in a crew file; settings that an inventory
/// does not carry are named in a comment.
pub fn export(file: &CrewFile) -> String {
    let crew = &file.crew;
    let mut text = format!("# Crew {crew}. Made of the crew's file; `beehive crew import` reads it.\n");
    let network = Network::clone(&file.network);
    let mut all = file.settings.clone();
    for (key, value) in [("domain", network.domain), ("server", network.server)] {
        if let Some(value) = value {
            super::section(&mut all, "network").insert(key.to_owned(), Value::String(value));
        }
    }
    let mut missing = Vec::new();
    for (section, value) in &all {
        match value.as_table() {
            Some(table) => missing.extend(
                table
                    .keys()
                    .filter(|key| !SETTINGS.iter().any(|(known, name, _)| known == section && name == key))
                    .map(|key| format!("{key} in [{section}]")),
            ),
            None => missing.push(section.clone()),
        }
    }
    if !missing.is_empty() {
        text.push_str(&format!("# Not in here, as an inventory does not carry it: {}.\n", missing.join(", ")));
    }
    for (group, role) in [(MASTER, Role::Master), (NODES, Role::Node)] {
        text.push_str(&format!("\n[{group}]\n"));
        for node in file.nodes.iter().filter(|node| node.role == role) {
            text.push_str(&host_line(file, node));
        }
    }
    let taken = [MASTER, NODES, ALL].contains(&crew.as_str());
    let group = if taken { SUBSTITUTE } else { crew.as_str() };
    text.push_str(&format!("\n[{group}:children]\n{MASTER}\n{NODES}\n\n[{group}:vars]\n"));
    if taken {
        text.push_str(&format!("{CREW}={crew}\n"));
    }
    if !file.operators.is_empty() {
        let users: Vec<&str> = file.operators.iter().map(beehive_mqtt::UserName::as_str).collect();
        text.push_str(&format!("{OPERATORS}={}\n", serde_json::json!(users)));
    }
    for (section, key, _) in SETTINGS {
        if let Some(value) = all.get(section).and_then(|table| table.get(key)) {
            text.push_str(&format!("{}={}\n", variable_name(section, key), literal(value)));
        }
    }
    text
}

fn host_line(file: &CrewFile, node: &CrewNode) -> String {
    let mut line = node.name.to_string();
    let host = file.network.host_of(node);
    if host != node.name.as_str() {
        line.push_str(&format!(" {ADDRESS}={host}"));
    }
    for (name, words) in [("beehive_labels", &node.labels), ("beehive_taints", &node.taints)] {
        if !words.is_empty() {
            // no label and no taint has a quote in it
            line.push_str(&format!(" {name}='{}'", serde_json::json!(words)));
        }
    }
    if let Some(feed) = &node.feed {
        line.push_str(&format!(" beehive_feed={feed}"));
    }
    if let Some(address) = node.advertise_address {
        line.push_str(&format!(" beehive_advertise_address={address}"));
    }
    line.push('\n');
    line
}

/// A value as Ansible reads it: Python's literals, of which JSON's are a part but for the words for true and false.
fn literal(value: &Value) -> String {
    match value {
        Value::Boolean(true) => "True".to_owned(),
        Value::Boolean(false) => "False".to_owned(),
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Datetime(_)
        | Value::Array(_)
        | Value::Table(_) => serde_json::to_value(value).map(|value| value.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVENTORY: &str = r#"
# bee42's crew
[crew-master]
bee42-crew-01-001 ansible_host=10.0.0.7   # on the shelf

[crew-nodes]
bee42-crew-01-[002:004] beehive_labels='["disk=ssd"]'
bee42-crew-01-005.local:22

[bee42-crew-01:children]
crew-master
crew-nodes

[bee42-crew-01:vars]
ansible_user=pi
ansible_become_pass=hunter2
beehive_engine_kind=k3s
beehive_engine_version=v1.31.4+k3s1
beehive_engine_pre_pull=['docker.io/library/nginx:1.27.0']
beehive_engine_snapshots=5

[crew-nodes:vars]
beehive_taints=["a=b:NoSchedule"]

[elsewhere]
printer
"#;

    #[track_caller]
    fn refused(text: &str, expected: &[&str]) {
        let error = import(text, "i.ini", None).unwrap_err();
        assert_eq!(error.to_string().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_inventory_as_the_crews_people_have_it_becomes_a_crew() {
        let Imported { file, text, left_out } = import(INVENTORY, "i.ini", None).unwrap();
        assert_eq!(CrewFile::parse(&text, "crew.toml").unwrap(), file);
        assert_eq!(file.crew.as_str(), "bee42-crew-01");
        let names: Vec<&str> = file.nodes.iter().map(|node| node.name.as_str()).collect();
        let expected = ["001", "002", "003", "004", "005"].map(|number| format!("bee42-crew-01-{number}"));
        assert_eq!(names, expected);
        assert_eq!(file.master().unwrap().address.as_deref(), Some("10.0.0.7"));
        assert_eq!(file.nodes[4].address.as_deref(), Some("bee42-crew-01-005.local"));
        assert_eq!(file.nodes[1].labels, ["disk=ssd"]);
        assert_eq!(
            (file.nodes[0].taints.len(), file.nodes[4].taints.as_slice()),
            (0, &["a=b:NoSchedule".to_owned()][..])
        );
        assert_eq!(file.engine.version.as_str(), "v1.31.4+k3s1");
        assert_eq!(file.engine.settings.pre_pull, ["docker.io/library/nginx:1.27.0"]);
        assert_eq!(file.engine.settings.snapshots, 5);
        assert_eq!(left_out, ["ansible_become_pass", "ansible_user", "host printer"]);
        assert!(!text.contains("hunter2") && !export(&file).contains("hunter2"));
    }

    #[test]
    fn groups_of_groups_and_hosts_above_all_groups_are_understood() {
        let text = "pi-1 ansible_host=10.0.0.1\n[crew-master]\npi-1\n[crew-nodes:children]\nrack-a\nrack-b\n[rack-a]\npi-[2:3]\n\
                    [rack-b]\npi-[a:c:2]\n[rack-a:vars]\nbeehive_labels=[\"rack=a\"]\n[crew-nodes:vars]\nbeehive_labels=[\"rack=x\"]\n\
                    [all:vars]\nbeehive_crew=bee\n";
        let file = import(text, "i.ini", None).unwrap().file;
        let nodes: Vec<(&str, &[String])> =
            file.nodes.iter().map(|node| (node.name.as_str(), node.labels.as_slice())).collect();
        let (a, x) = (["rack=a".to_owned()], ["rack=x".to_owned()]);
        assert_eq!(nodes, [("pi-1", &[][..]), ("pi-2", &a), ("pi-3", &a), ("pi-a", &x), ("pi-c", &x)]);
        assert_eq!((file.crew.as_str(), file.nodes[0].address.as_deref()), ("bee", Some("10.0.0.1")));
        let named = import(text, "i.ini", Some(&"wasp".parse().unwrap())).unwrap().file;
        assert_eq!(named.crew.as_str(), "wasp");
    }

    #[test]
    fn a_circle_of_groups_ends() {
        let text = "[crew-master]\na\n[crew-nodes:children]\nx\n[x:children]\ncrew-nodes\n[x]\nb\n[bee:children]\ncrew-master\n";
        assert_eq!(import(text, "i.ini", None).unwrap().file.nodes.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let with = |rest: &str| format!("[crew-master]\npi-1\n[bee:children]\ncrew-master\n{rest}");
        refused(
            "[crew-nodes]\npi-1\n",
            &[
                "i.ini: no host is in [crew-master]",
                "  add the group [crew-master] with the Pi that coordinates; the others stand in [crew-nodes]",
            ],
        );
        for (rest, line, why) in [
            ("[crew-nodes\n", 5, "a ']' is missing after the group's name"),
            ("[crew-nodes:hosts]\n", 5, "\"hosts\" is nothing that a group has"),
            ("[crew-nodes]\npi-[2:\n", 6, "\"pi-[2:\": a ']' is missing after the range"),
            ("[crew-nodes]\npi-[02:5]\n", 6, "the same number of digits"),
            ("[crew-nodes]\npi-[5:2]\n", 6, "its last comes before its first"),
            ("[crew-nodes]\npi-[1:99999]\n", 6, "too many hosts"),
            ("[crew-nodes]\npi-2 secret\n", 6, "a word has no '='"),
            ("[crew-nodes]\npi-2 a='x\n", 6, "a closing ' is missing"),
            ("[crew-nodes]\nPI_2\n", 6, "cannot be a node's name"),
            ("[crew-nodes]\n10.0.0.8\n", 6, "10.0.0.8 is an address, not a name"),
            ("[crew-nodes]\npi-1\n", 2, "pi-1 is in [crew-master] and in [crew-nodes]"),
            ("[crew-master]\npi-2\n", 6, "pi-2 is a second host in [crew-master]"),
            ("[crew-nodes:children]\nnowhere\n", 6, "there is no group [nowhere]"),
            ("[bee:vars]\nbeehive_engine_knid=k3s\n", 6, "beehive_engine_knid is no variable of beehive's"),
            ("[bee:vars]\nbeehive_engine_kind=k8s\n", 6, "kind in [engine] is \"k8s\""),
            ("[bee:vars]\nbeehive_engine_snapshots=many\n", 6, "beehive_engine_snapshots is not what belongs there"),
            ("[bee:vars]\nbeehive_engine_mirrors={\"docker.io\": [\"mirror\"]}\n", 6, "\"mirror\" for docker.io"),
            (
                "[bee:vars]\nx=1\n[all:vars]\nbeehive_broker_port=1\n[bee:vars]\nbeehive_broker_port=2\n",
                10,
                "than in line 8",
            ),
            ("[bee:vars]\nansible_host=10.0.0.1\n", 6, "the address of each of its hosts"),
            ("[crew-nodes]\npi-2 beehive_engine_kind=k3s\n", 6, "the same for the whole crew"),
            ("[crew-nodes]\npi-2\npi-3 beehive_feed=sun\n", 7, "feed of pi-3 is \"sun\""),
            ("[crew-nodes]\npi-2 beehive_advertise_address=x\n", 6, "is no IP address"),
            ("[wasp:children]\ncrew-master\n", 0, "more than one group has crew-master among its children"),
        ] {
            let error = import(&with(rest), "i.ini", None).unwrap_err();
            let first = &error.problems[0];
            assert!(first.message.contains(why), "{rest:?}: {error}");
            assert_eq!(first.at.map_or(0, |(line, _)| line), line, "{rest:?}: {error}");
            assert!(!first.hint.is_empty());
        }
    }

    #[test]
    fn what_is_told_holds_no_value_of_ansibles() {
        for rest in
            ["pi-2 hunter2\n", "pi-2 ansible_ssh_pass='hunter2\n", "pi-2 ansible_ssh_pass=hunter2 beehive_feed=x\n"]
        {
            let text = format!("[crew-master]\npi-1\n[bee:children]\ncrew-master\n[crew-nodes]\n{rest}");
            let error = import(&text, "i.ini", None).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn commands_and_what_an_inventory_does_not_carry_are_named_and_not_exported() {
        let text = "crew = \"bee\"\nleds = \"off\"\n[cluster]\nswitch_on = [\"/bin/poe\", \"hunter2\"]\n[[node]]\nname = \"pi-1\"\n";
        let inventory = export(&CrewFile::parse(text, "c").unwrap());
        assert!(inventory.contains("Not in here") && inventory.contains("switch_on in [cluster], leds"), "{inventory}");
        assert!(!inventory.contains("hunter2"));
    }

    #[test]
    fn every_setting_of_the_engine_is_carried_or_is_of_the_simulated_one() {
        let carried = |key: &str| SETTINGS.iter().any(|(section, name, _)| (*section, *name) == ("engine", key));
        for line in crate::config::shared::engine_example().lines() {
            let Some((key, _)) = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")) else { continue };
            assert!(carried(key) || key.starts_with("step_") || key.starts_with('"'), "{key}");
        }
    }
}
