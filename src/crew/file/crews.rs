//! Several crews side by side: each has a folder below `~/.config/beehive/crews`, or below `$XDG_CONFIG_HOME`.
//!
//! The crew that is meant is the first of these: `--crew`, `BEEHIVE_CREW`, the default that `beehive crew use` set, the only
//! one that has a folder. Its broker: `--broker`, `BEEHIVE_BROKER`, what its `crew.toml` says, this machine.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use beehive_mqtt::{CrewName, NodeName};

use super::{CREW_FILE, CrewFile};
use crate::cli::{AuditCommand, Cli, Command, ConsoleOptions, CrewCommand, crews_dir};
use crate::crew::files::{self, Access};

/// The file with the name of the crew that is meant where none is named, beside the crews' folders.
const DEFAULT: &str = "default-crew";

/// What one of these is in a folder makes it a crew's.
const MARKS: [&str; 4] = [CREW_FILE, "crew.key", "manifest.json", "operators"];

/// The crews that have a folder here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crews {
    dir: PathBuf,
}

impl Crews {
    /// Those below `dir`.
    pub fn below(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Those of who runs this.
    pub fn of_this_user() -> Self {
        Self::below(&crews_dir())
    }

    /// A crew's folder.
    pub fn folder(&self, crew: &CrewName) -> PathBuf {
        self.dir.join(crew.as_str())
    }

    /// Their names, in order. What has another kind of name, or nothing of a crew in it, is not one.
    ///
    /// # Errors
    /// If the folder cannot be read; that it is not there is no error.
    pub fn names(&self) -> io::Result<Vec<CrewName>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| files::named(&self.dir, "read", &error))?,
        };
        let mut names: Vec<CrewName> = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let folder = self.folder(&name);
            if MARKS.iter().any(|mark| folder.join(mark).exists()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn default_file(&self) -> PathBuf {
        self.dir.parent().unwrap_or(&self.dir).join(DEFAULT)
    }

    /// The default that somebody chose.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no crew's name.
    pub fn default(&self) -> anyhow::Result<Option<CrewName>> {
        let path = self.default_file();
        let text = match files::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let hint = || format!("{} holds no crew's name; `beehive crew use NAME` writes it anew", path.display());
        text.trim().parse().map(Some).with_context(hint)
    }

    /// Makes `crew` the default.
    ///
    /// # Errors
    /// If it has no folder, or the file cannot be written.
    pub fn make_default(&self, crew: &CrewName) -> anyhow::Result<()> {
        let names = self.names()?;
        if !names.contains(crew) {
            let known: Vec<&str> = names.iter().map(CrewName::as_str).collect();
            let known =
                if known.is_empty() { "no crew has".to_owned() } else { format!("there are {}", known.join(", ")) };
            anyhow::bail!(
                "crew {crew} has no folder in {}: {known}. `beehive crew init {crew}` makes it; nothing was changed",
                self.dir.display()
            );
        }
        Ok(files::write(&self.default_file(), Access::Public, format!("{crew}\n").as_bytes())?)
    }

    /// The crew that is meant, where `named` may have been named.
    ///
    /// # Errors
    /// If the default cannot be read.
    pub fn meant(&self, named: Option<&CrewName>) -> anyhow::Result<Option<CrewName>> {
        if let Some(named) = named {
            return Ok(Some(named.clone()));
        }
        if let Some(default) = self.default()? {
            return Ok(Some(default));
        }
        let names = self.names()?;
        Ok(match names.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        })
    }

    /// What is not given of the console's options, from the crew that is meant and from its file. What is given is left
    /// alone, and nothing is read for it.
    ///
    /// # Errors
    /// If something that is needed cannot be read, or the crew's file is not valid.
    pub fn complete(&self, options: &mut ConsoleOptions) -> anyhow::Result<()> {
        options.crew = self.meant(options.crew.as_ref())?;
        let Some(crew) = options.crew.as_ref().filter(|_| options.broker.is_none()) else { return Ok(()) };
        let path = self.folder(crew).join(CREW_FILE);
        if path.exists() {
            options.broker = Some(CrewFile::load(&path)?.console_broker());
        }
        Ok(())
    }

    /// Where the file of a crew says that its nodes are; nothing where it has none here.
    ///
    /// # Errors
    /// If the crew's file is not valid.
    pub fn hosts(&self, crew: &CrewName) -> anyhow::Result<BTreeMap<NodeName, String>> {
        let path = self.folder(crew).join(CREW_FILE);
        if path.exists() { Ok(CrewFile::load(&path)?.hosts()) } else { Ok(BTreeMap::new()) }
    }
}

/// The command line, with what the console's commands find by the crews' folders.
///
/// # Errors
/// As [`Crews::complete`].
pub fn completed(mut cli: Cli) -> anyhow::Result<Cli> {
    let crews = Crews::of_this_user();
    match &cli.command {
        Command::Console(_) | Command::Bridge(_) | Command::Discover(_) | Command::Crew(CrewCommand::Upgrade(_)) => {
            crews.complete(&mut cli.options)?;
        }
        Command::Audit(AuditCommand::Head) => cli.options.crew = crews.meant(cli.options.crew.as_ref())?,
        _ => {}
    }
    Ok(cli)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn options(line: &[&str]) -> ConsoleOptions {
        Cli::try_parse_from(["beehive"].iter().chain(line).chain(&["version"])).unwrap().options
    }

    fn crews(dir: &Path, names: &[&str]) -> Crews {
        let crews = Crews::below(&dir.join("crews"));
        for name in names {
            let folder = crews.folder(&name.parse().unwrap());
            std::fs::create_dir_all(&folder).unwrap();
            let file = format!("crew = \"{name}\"\n[[node]]\nname = \"{name}-001\"\n");
            std::fs::write(folder.join(CREW_FILE), file).unwrap();
        }
        crews
    }

    #[test]
    fn what_is_named_goes_before_the_default_and_that_before_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let meant = |crews: &Crews, named: Option<&str>| {
            let named = named.map(|named| named.parse().unwrap());
            crews.meant(named.as_ref()).unwrap().map(|crew| crew.to_string())
        };
        let none = crews(dir.path(), &[]);
        assert_eq!(meant(&none, None), None);
        let one = crews(dir.path(), &["bee-1"]);
        std::fs::create_dir(dir.path().join("crews/empty")).unwrap();
        assert_eq!(meant(&one, None).as_deref(), Some("bee-1"));
        let two = crews(dir.path(), &["bee-2"]);
        assert_eq!(two.names().unwrap().len(), 2, "what has nothing of a crew in it is none");
        assert_eq!(meant(&two, None), None);
        two.make_default(&"bee-2".parse().unwrap()).unwrap();
        assert_eq!(meant(&two, None).as_deref(), Some("bee-2"));
        assert_eq!(meant(&two, Some("bee-1")).as_deref(), Some("bee-1"));
        let error = two.make_default(&"bee-3".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("there are bee-1, bee-2"), "{error}");
        std::fs::write(dir.path().join(DEFAULT), "No Name").unwrap();
        let error = two.meant(None).unwrap_err().to_string();
        assert!(error.contains("crew use NAME"), "{error}");
    }

    #[test]
    fn the_broker_is_found_by_the_crews_file_unless_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let crews = crews(dir.path(), &["bee-1"]);
        let broker = |line: &[&str]| {
            let mut options = options(line);
            crews.complete(&mut options).unwrap();
            (options.broker().to_string(), options.crew.unwrap().to_string())
        };
        assert_eq!(broker(&[]), ("tls://bee-1-001:8883".to_owned(), "bee-1".to_owned()));
        assert_eq!(broker(&["--broker", "[::1]:7"]), ("[::1]:7".to_owned(), "bee-1".to_owned()));
        assert_eq!(broker(&["--crew", "other"]), ("127.0.0.1:1883".to_owned(), "other".to_owned()));
        // a file that is not valid is told, but only where it is needed
        std::fs::write(crews.folder(&"bee-1".parse().unwrap()).join(CREW_FILE), "crew = 1").unwrap();
        let error = crews.complete(&mut options(&[])).unwrap_err().to_string();
        assert!(error.contains("crew.toml:1:8"), "{error}");
        assert_eq!(broker(&["--broker", "tls://a", "--crew", "bee-1"]).0, "tls://a:8883");
    }
}
