//! `beehive release …`: on a Pi, as root.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use beehive_mqtt::Signer as _;
use beehive_mqtt::sign::PublicKey;
use serde_json::{Value, json};

use super::package::{self, Architecture, MANIFEST, Package, PackageError};
use super::shelf::{Installed, Judged, Part, Shelf, ShelfError, Used};
use super::trial::{How, Moment};
use super::watch;
use crate::cli::{GuardMoment, ReleaseCommand, ReleasePlaces};
use crate::clock::Clock;
use crate::config::Config;
use crate::console::ExitCode;
use crate::crew::files::{self, Access};
use crate::crew::keys::KeyFolder;
use crate::keys;

/// What restarts the daemon. It does not wait: a release that dies at its start is not this command's failure but the
/// trial's.
const RESTART: [&str; 4] = ["/usr/bin/systemctl", "--no-block", "restart", "beehive.service"];

/// Where the daemon says that its release is healthy. Not from the configuration: a mistake in that must not end a guard.
const RUN_DIR: &str = "/run/beehive";

/// What is said of a command that was carried out: on standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// For people.
    pub text: String,
    /// For scripts.
    pub document: Value,
}

fn said(text: String, document: Value) -> anyhow::Result<Said> {
    Ok(Said { text, document })
}

/// How an error of this command ends the program: what a rule refuses is told apart from what failed.
pub fn exit_of(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ShelfError>() {
        Some(ShelfError::Refused { .. } | ShelfError::Package(PackageError::Untrusted { .. })) => ExitCode::Refused,
        _ => match error.downcast_ref::<PackageError>() {
            Some(PackageError::Untrusted { .. }) => ExitCode::Refused,
            _ => ExitCode::Failed,
        },
    }
}

/// The crew's public key on this Pi.
fn key(places: &ReleasePlaces) -> anyhow::Result<PublicKey> {
    let config = Config::load(&places.config)?;
    Ok(keys::crew_key(&config.keys.dir)?)
}

fn boot() -> anyhow::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(|error| files::named(path, "read", &error))?.trim().to_owned())
}

fn restart(program: Option<&PathBuf>) -> anyhow::Result<()> {
    let (program, arguments) = match program {
        Some(program) => (program.as_path(), &[][..]),
        None => (Path::new(RESTART[0]), &RESTART[1..]),
    };
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(anyhow::anyhow!("{} ended with {status}; restart the daemon by hand", program.display())),
        Err(error) => {
            Err(anyhow::anyhow!("{} cannot be started: {error}; restart the daemon by hand", program.display()))
        }
    }
}

fn judged(judged: &Judged) -> (String, Value) {
    match judged {
        Judged::Nothing => ("nothing changed\n".to_owned(), json!({ "result": "unchanged" })),
        Judged::Over(ended) => {
            let word = match ended.how {
                How::Confirmed => "is in use and no longer on trial",
                How::WentBack => "was left",
                How::Abandoned => "was never switched to",
            };
            (format!("{} {word}: {}\n", ended.version, ended.reason), json!({ "result": "ended", "ended": ended }))
        }
        Judged::WentBack { to, reason } => {
            (format!("{to} is in use again: {reason}\n"), json!({ "result": "went_back", "to": to, "reason": reason }))
        }
    }
}

/// Carries `command` out.
///
/// # Errors
/// Says what was not done. It may be run again.
pub fn run(command: &ReleaseCommand) -> anyhow::Result<Said> {
    match command {
        ReleaseCommand::Install { from, places } => install(from, places),
        ReleaseCommand::Use { version, restart: program, places } => {
            let key = key(places)?;
            // closed before the daemon's start, which opens it too
            let used = Shelf::open(&places.releases)?.use_version(version, &key, &boot()?, Clock.now().as_ms())?;
            match used {
                Used::Unchanged => said(format!("{version} is in use already\n"), json!({ "result": "unchanged" })),
                Used::First => said(
                    format!(
                        "{version} is the first release here, without a trial; it runs from the daemon's next start on\n"
                    ),
                    json!({ "result": "first" }),
                ),
                Used::OnTrial { back } => {
                    restart(program.as_ref())?;
                    said(
                        format!("{version} is on trial; if it does not confirm itself this Pi goes back to {back}\n"),
                        json!({ "result": "on_trial", "back": back }),
                    )
                }
            }
        }
        ReleaseCommand::Rollback { restart: program, places } => {
            let outcome = Shelf::open(&places.releases)?.roll_back(&boot()?, Clock.now().as_ms())?;
            restart(program.as_ref())?;
            let (text, document) = judged(&outcome);
            said(text, document)
        }
        ReleaseCommand::Confirm { places } => {
            let shelf = Shelf::open(&places.releases)?;
            let Some(current) = shelf.current()? else { anyhow::bail!("no release is in use here") };
            let outcome = shelf.judge(&boot()?, Clock.now().as_ms(), &Moment::Healthy(current))?;
            let (text, document) = judged(&outcome);
            said(text, document)
        }
        ReleaseCommand::Guard { at, restart: program, places } => {
            let (shelf, run_dir) = (Shelf::open(&places.releases)?, Path::new(RUN_DIR));
            let moment = match at {
                GuardMoment::Starting => {
                    watch::forget_healthy(run_dir)?;
                    Moment::Starting
                }
                GuardMoment::Tick => match (watch::said_healthy(run_dir), shelf.current()?) {
                    (Some(said), Some(current)) if said == current => Moment::Healthy(current),
                    (Some(_) | None, _) => Moment::Tick,
                },
            };
            let outcome = shelf.judge(&boot()?, Clock.now().as_ms(), &moment)?;
            let (text, document) = judged(&outcome);
            match (&outcome, at) {
                // the daemon that is only starting starts from where `current` leads now
                (Judged::WentBack { .. }, GuardMoment::Tick) => restart(program.as_ref())?,
                (Judged::WentBack { .. }, GuardMoment::Starting) | (Judged::Nothing | Judged::Over(_), _) => {}
            }
            said(text, document)
        }
        ReleaseCommand::List { places } => list(places),
    }
}

fn install(from: &Path, places: &ReleasePlaces) -> anyhow::Result<Said> {
    let key = key(places)?;
    let package = if from == Path::new("-") {
        if io::stdin().is_terminal() {
            anyhow::bail!("a release comes on standard input with '-', and a terminal is there; name a folder instead");
        }
        Package::read_stream(io::stdin().lock(), &key)?
    } else {
        Package::read_folder(from, &key)?
    };
    let (version, kind) = (&package.manifest.version, package.manifest.architecture);
    match Architecture::own() {
        Some(own) if own == kind => {}
        own => {
            let own = own.map_or(std::env::consts::ARCH, Architecture::as_str);
            let why =
                format!("{version} is for {kind}, and this machine is {own}; take the folder {own} of the release");
            return Err(ShelfError::Refused { rule: "other-processor", why }.into());
        }
    }
    let (text, word) = match Shelf::open(&places.releases)?.install(&package, &key)? {
        Installed::New => {
            (format!("{version} is installed; `beehive release use {version}` lets this Pi use it\n"), "installed")
        }
        Installed::Unchanged => (format!("{version} was installed already\n"), "unchanged"),
        Installed::Repaired => {
            (format!("{version} was damaged on this card and is whole again; check the card\n"), "repaired")
        }
    };
    said(text, json!({ "result": word, "version": version }))
}

fn list(places: &ReleasePlaces) -> anyhow::Result<Said> {
    let key = key(places)?;
    let shelf = Shelf::open_to_look(&places.releases)?;
    let (list, record) = (shelf.list(&key)?, shelf.record()?);
    let mut text = String::new();
    for release in &list {
        let part = match release.part {
            Part::Current => "in use",
            Part::Previous => "before",
            Part::Kept => "",
        };
        let fault = release.fault.as_ref().map_or(String::new(), |fault| format!("  DAMAGED: {fault}"));
        text.push_str(&format!("{:<32} {part:<8}{fault}\n", release.version));
    }
    if list.is_empty() {
        text.push_str("no release is installed here\n");
    }
    if let Some(trial) = &record.trial {
        let starts = trial.starts;
        text.push_str(&format!(
            "{} is on trial (started {starts} times); the way back leads to {}\n",
            trial.version, trial.back
        ));
    }
    if let Some(last) = &record.last {
        text.push_str(judged(&Judged::Over(last.clone())).0.as_str());
    }
    let document = json!({
        "architecture": Architecture::own(),
        "current": shelf.current()?,
        "previous": shelf.previous()?,
        "releases": list,
        "trial": record.trial,
        "last": record.last,
    });
    said(text, document)
}

/// `beehive crew sign-release`: makes the signed manifests of the releases in `folder`, on the machine of the crew's owner.
///
/// # Errors
/// Says what is wrong with the folder or the crew's key; then nothing was written.
pub fn sign(folder: &Path, crew_folder: &Path) -> anyhow::Result<String> {
    let (crew, signer) = KeyFolder::new(crew_folder).signer()?;
    let described = package::describe(folder, &crew)?;
    let mut text = String::new();
    for (place, manifest) in described {
        let signed = package::compose(&manifest, |bytes| signer.sign(bytes))?;
        files::write(&place.join(MANIFEST), Access::Public, &signed)?;
        text.push_str(&format!(
            "{}: version {} for {}, protocol {}, signed for crew {crew}\n",
            place.display(),
            manifest.version,
            manifest.architecture,
            manifest.protocol
        ));
    }
    text.push_str(&format!("Next: beehive crew upgrade --release {} --dry-run\n", folder.display()));
    Ok(text)
}
