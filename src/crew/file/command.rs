//! `beehive crew config|list|use|import|export`, and the crew file that `beehive crew init` writes.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use beehive_mqtt::manifest::Manifest;
use beehive_mqtt::node::Role;
use beehive_mqtt::{CrewName, NodeName, UserName};
use serde_json::json;
use toml::{Table, Value};

use super::crews::Crews;
use super::{CREW_FILE, CrewFile, CrewNode, Draft, JoinWhen, Network, ansible};
use crate::cli::{ConsoleOptions, CrewCommand, ExportFormat, NewCrewFile};
use crate::config::EngineKind;
use crate::crew::command::dir_of;
use crate::crew::files::{self, Access};

/// A crew as the project's own one: a master and two nodes.
const DEFAULT_COUNT: u8 = 3;

/// Carries `command` out, and says what there is to say.
///
/// # Errors
/// Says what could not be done; then nothing was changed.
pub fn run(command: &CrewCommand, options: &ConsoleOptions) -> anyhow::Result<String> {
    match command {
        CrewCommand::Config { node, out, of } => {
            let file = CrewFile::load(&dir_of(of, options)?.join(CREW_FILE))?;
            let text = file.node_config(node)?;
            match out {
                None => Ok(text),
                Some(out) => {
                    let path = out.join("beehive.toml");
                    put(&path, &text)?;
                    Ok(format!("{}: the configuration of {node}; it lies in /etc/beehive on the Pi\n", path.display()))
                }
            }
        }
        CrewCommand::List => list(&Crews::of_this_user(), options),
        CrewCommand::Use { default } => {
            Crews::of_this_user().make_default(default)?;
            Ok(format!("crew {default} is meant from now on where none is named\n"))
        }
        CrewCommand::Import { inventory, name, out } => import(inventory, name.as_ref(), out.as_deref()),
        CrewCommand::Export { format: ExportFormat::Ansible, out, of } => {
            let text = ansible::export(&CrewFile::load(&dir_of(of, options)?.join(CREW_FILE))?);
            match out {
                None => Ok(text),
                Some(out) => {
                    put(out, &text)?;
                    Ok(format!("{}: the inventory\n", out.display()))
                }
            }
        }
        CrewCommand::Init { .. }
        | CrewCommand::AddNode { .. }
        | CrewCommand::AddUser { .. }
        | CrewCommand::Revoke { .. }
        | CrewCommand::GrantCoordinator { .. }
        | CrewCommand::Backup { .. }
        | CrewCommand::Restore { .. }
        | CrewCommand::Master(_)
        | CrewCommand::SignRelease { .. }
        | CrewCommand::Enrol(_)
        | CrewCommand::Upgrade(_) => anyhow::bail!("this is no command of the crew's file"),
    }
}

/// Writes a file that is not there yet, and the folders above it.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| files::named(folder, "make", &error))?;
    }
    files::write_new(path, Access::Public, text.as_bytes()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow::anyhow!(
                "{} is there already, and nothing is overwritten: remove it, or name another",
                path.display()
            )
        }
        _ => error.into(),
    })
}

fn list(crews: &Crews, options: &ConsoleOptions) -> anyhow::Result<String> {
    let names = crews.names()?;
    let meant = crews.meant(options.crew.as_ref())?;
    let mut rows = Vec::new();
    for name in &names {
        let path = crews.folder(name).join(CREW_FILE);
        let about = match CrewFile::load(&path) {
            Ok(file) => {
                let (kind, count) = (file.engine.kind.as_str(), file.nodes.len());
                format!(
                    "{count} {}, {kind}, broker {}",
                    if count == 1 { "node" } else { "nodes" },
                    file.console_broker()
                )
            }
            Err(_) if !path.exists() => format!("no {CREW_FILE}"),
            Err(_) => format!("{CREW_FILE} is not valid"),
        };
        let alarms = crate::enrol::owner::register::Register::of(&crews.folder(name)).open_alarms();
        let about = match alarms.map(|alarms| alarms.len()) {
            Ok(0) => about,
            Ok(count) => format!("{about}; ALARM: {count} second uses of a card's secret, see `beehive crew enrol`"),
            Err(_) => format!("{about}; its enrolments cannot be read"),
        };
        rows.push((name, about));
    }
    if options.json {
        let document: Vec<_> = rows
            .iter()
            .map(|(name, about)| {
                json!({ "crew": name.as_str(), "meant": meant.as_ref() == Some(name), "folder": crews.folder(name),
                        "about": about })
            })
            .collect();
        return Ok(format!("{}\n", serde_json::Value::Array(document)));
    }
    if rows.is_empty() {
        return Ok("no crew has a folder here; `beehive crew init NAME` makes one\n".to_owned());
    }
    let width = rows.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0);
    Ok(rows
        .iter()
        .map(|(name, about)| {
            let mark = if meant.as_ref() == Some(name) { '*' } else { ' ' };
            format!("{mark} {:width$}  {about}\n", name.as_str())
        })
        .collect())
}

fn import(inventory: &Path, name: Option<&CrewName>, out: Option<&Path>) -> anyhow::Result<String> {
    let imported = ansible::import(&files::read(inventory)?, &inventory.display().to_string(), name)?;
    let crew = &imported.file.crew;
    let path = out.map_or_else(|| Crews::of_this_user().folder(crew).join(CREW_FILE), Path::to_owned);
    put(&path, &imported.text)?;
    let mut said = format!("{}: crew {crew}, {} nodes\n", path.display(), imported.file.nodes.len());
    if !imported.left_out.is_empty() {
        said.push_str(&format!("Left out, as they are no concern of beehive's: {}\n", imported.left_out.join(", ")));
    }
    said.push_str(&format!("Next: look it over, then `beehive crew init {crew}` makes its keys\n"));
    Ok(said)
}

/// The file of a crew whose keys are about to be made.
#[derive(Debug, Clone)]
pub struct Described {
    file: CrewFile,
    written: Written,
}

/// Whether there is such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Already,
    NotYet,
}

/// What the file of a new crew is to say: what one that is there says, as `crew import` wrote it, or what the command line
/// says.
///
/// # Errors
/// If the crew is there already, its file is not valid, or the command line says something else than the file.
pub fn describe(
    dir: &Path,
    crew: &CrewName,
    nodes: &[NodeName],
    operators: &[UserName],
    wanted: &NewCrewFile,
) -> anyhow::Result<Described> {
    let key = dir.join(crate::crew::keys::CREW_KEY);
    if key.exists() {
        return Err(crate::crew::keys::CrewError::Exists(key).into());
    }
    let path = dir.join(CREW_FILE);
    if path.exists() {
        let file = CrewFile::load(&path)?;
        if file.crew != *crew {
            anyhow::bail!("{} is the file of crew {}, not of {crew}; nothing was changed", path.display(), file.crew);
        }
        let NewCrewFile { count, engine, version, domain } = wanted;
        let given =
            !nodes.is_empty() || count.is_some() || engine.is_some() || version.version.is_some() || domain.is_some();
        if given {
            anyhow::bail!(
                "{} is there and says who is in the crew and what it runs: leave --node, --nodes, --engine, \
                 --engine-version and --domain out, or remove it; nothing was changed",
                path.display()
            );
        }
        return Ok(Described { file, written: Written::Already });
    }
    let names = match nodes {
        [] => by_scheme(crew, wanted.count.unwrap_or(DEFAULT_COUNT))?,
        named => named.to_vec(),
    };
    let mut nodes: Vec<CrewNode> = names.into_iter().map(CrewNode::new).collect();
    if let Some(first) = nodes.first_mut() {
        first.role = Role::Master;
    }
    let mut engine = Table::new();
    let kind = wanted.engine.map_or(EngineKind::K3s, EngineKind::from);
    engine.insert("kind".to_owned(), Value::String(kind.as_str().to_owned()));
    if let Some(version) = &wanted.version.version {
        engine.insert("version".to_owned(), Value::String(version.clone()));
    }
    let mut settings = Table::new();
    settings.insert("engine".to_owned(), Value::Table(engine));
    let network = Network { domain: wanted.domain.clone(), server: None };
    let operators = operators.iter().map(UserName::as_str).collect();
    let join = JoinWhen::default();
    let text =
        Draft { crew: crew.as_str(), operators, join, nodes: &nodes, network: &network, settings: &settings }.to_toml();
    let file = CrewFile::parse(&text, "the new crew's file")?;
    Ok(Described { file, written: Written::NotYet })
}

/// NAME-001 and so on.
fn by_scheme(crew: &CrewName, count: u8) -> anyhow::Result<Vec<NodeName>> {
    let name = |number| format!("{crew}-{number:03}").parse();
    (1..=count).map(name).collect::<Result<_, _>>().with_context(|| {
        format!("{crew} is too long for nodes {crew}-001 and so on; name them with --node, or choose a shorter name")
    })
}

impl Described {
    /// Nodes, operators and the broker's port. The operators that are `named` go before those in the file.
    pub fn members(&self, named: Vec<UserName>) -> (Vec<NodeName>, Vec<UserName>, u16) {
        let operators = if named.is_empty() { self.file.operators.clone() } else { named };
        (self.file.names(), operators, self.file.broker.port)
    }

    /// Writes the file, if it is not there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, dir: &Path, operators: &[UserName]) -> anyhow::Result<()> {
        match self.written {
            Written::Already => Ok(()),
            Written::NotYet => {
                let file = CrewFile { operators: operators.to_vec(), ..self.file.clone() };
                put(&dir.join(CREW_FILE), &file.to_toml())
            }
        }
    }
}

/// What `crew init` says of the file.
pub fn next(dir: &Path) -> String {
    format!(
        "{} describes the crew: look it over, then `beehive crew config NODE` makes the beehive.toml of each Pi, and the \
         console finds the broker by it\n",
        dir.join(CREW_FILE).display()
    )
}

/// What is to be changed in the file of the crew in `dir` after its manifest has been.
pub fn differences(dir: &Path, manifest: &Manifest) -> String {
    let path: PathBuf = dir.join(CREW_FILE);
    if !path.exists() {
        return String::new();
    }
    match CrewFile::load(&path) {
        Ok(file) => file
            .differences(manifest)
            .iter()
            .map(|difference| format!("In {}: {difference}\n", path.display()))
            .collect(),
        Err(error) => format!("{CREW_FILE} cannot be compared with the manifest:\n{error}\n"),
    }
}
