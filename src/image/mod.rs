//! `beehive image …`: from a stock image to the card of one node.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`disk`] | the partition table, and a window onto the boot partition that holds back every write |
//! | [`boot`] | the files in it, through a FAT library |
//! | [`kind`] | which image it is |
//! | [`card`] | what goes onto the card |
//! | [`cmdline`], [`config_txt`] | the two files that are edited |
//! | [`plan`] | which files a card gets, by the kind of image |
//! | [`prepare`] | the image, copied and changed |
//! | [`flash`] | the image, onto a card |
//!
//! Preparing needs neither root nor a mount, and nothing of it but the rights of a new file depends on Linux; it is built
//! and run on Linux alone. docs/image.md says which image gets what, and what of it nobody has seen on a board.

pub mod args;
pub mod boot;
pub mod card;
pub mod cmdline;
pub mod config_txt;
pub mod disk;
pub mod flash;
pub mod kind;
pub mod plan;
pub mod prepare;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use self::args::{FlashArgs, ImageCommand, PrepareArgs};
use self::card::{Card, Cut, OfCrew, Shim, Sources};
use self::flash::{Machine, Progress, Stage};
use self::prepare::{Prepared, Target};
use crate::cli::ConsoleOptions;
use crate::console::confirm::{Consent, OwnTerminal, confirm};
use crate::console::exit::{ExitCode, Trouble};
use crate::crew::command::dir_of;
use crate::crew::file::{CREW_FILE, CrewFile};
use crate::crew::files::named;
use crate::enrol::owner::register::Renew;
use crate::enrol::owner::{self, BrokerPlace};

/// What is said of a command that was carried out: on standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// For people.
    pub text: String,
    /// For scripts.
    pub document: Value,
}

fn refused(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Trouble {
    Trouble::new(ExitCode::Refused, what, why, fix)
}

fn usage(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Trouble {
    Trouble::new(ExitCode::Usage, what, why, fix)
}

fn unreadable(error: &io::Error) -> Trouble {
    Trouble::new(ExitCode::Failed, "nothing was done", error.to_string(), "")
}

/// Carries `command` out.
///
/// # Errors
/// Says what was refused or failed, and what to do.
pub fn run(command: &ImageCommand, options: &ConsoleOptions) -> Result<Said, Trouble> {
    match command {
        ImageCommand::Prepare(arguments) => prepare(arguments, options),
        ImageCommand::Flash(arguments) => flash(arguments, &Machine::default()),
    }
}

/// What the crew's folder says of this node, unless the command line says it.
fn of_crew(arguments: &PrepareArgs, options: &ConsoleOptions) -> Result<Option<OfCrew>, Trouble> {
    let PrepareArgs { node, config, keys, renew, enrol_port, of, .. } = arguments;
    if config.is_some() || keys.is_some() {
        return Ok(None);
    }
    let dir = match dir_of(of, options) {
        Ok(dir) => dir,
        Err(error) if *renew => {
            return Err(usage("nothing was done", format!("{error:#}"), "--renew is of a crew's node"));
        }
        // no crew has a folder here: the card gets what the command line says
        Err(_) => return Ok(None),
    };
    if !dir.exists() && of.dir.is_none() && !*renew {
        return Ok(None);
    }
    let failed = |error: &dyn std::fmt::Display| {
        let fix = "or name --config and --keys, and the crew's folder is left alone";
        refused(format!("the card of {node} is not prepared from {}", dir.display()), error.to_string(), fix)
    };
    let file = CrewFile::load(&dir.join(CREW_FILE)).map_err(|error| failed(&error))?;
    let config = file.node_config(node).map_err(|error| failed(&error))?;
    let broker = if file.hosts_broker_on_master() { BrokerPlace::Master } else { BrokerPlace::Elsewhere };
    let renew = if *renew { Renew::Yes } else { Renew::No };
    let drawn = owner::draw(&dir, node, *enrol_port, renew, broker);
    let drawn = drawn.map_err(|error| failed(&format_args!("{error:#}")).with_code("enrolment"))?;
    Ok(Some(OfCrew { config, drawn }))
}

/// Where the prepared image goes.
fn target(arguments: &PrepareArgs) -> Result<Target, Trouble> {
    Ok(match (arguments.dry_run, arguments.in_place, &arguments.out) {
        (true, _, _) => Target::DryRun,
        (false, true, _) => Target::InPlace,
        (false, false, Some(out)) => Target::Copy(out.clone()),
        (false, false, None) => {
            return Err(usage(
                "nothing was done",
                "it is not said where the prepared image goes",
                "add --out FILE, or --in-place to change the image itself, or --dry-run",
            ));
        }
    })
}

fn prepare(arguments: &PrepareArgs, options: &ConsoleOptions) -> Result<Said, Trouble> {
    let target = target(arguments)?;
    let of_crew = of_crew(arguments, options)?;
    let PrepareArgs { image, node, login, ssh_keys, .. } = arguments;
    let card = Card::read(&Sources {
        node,
        login,
        ssh_keys,
        config: arguments.config.as_deref(),
        keys: arguments.keys.as_deref(),
        package: arguments.package.as_deref(),
        overlays: &arguments.overlays,
        shim: if arguments.without_shim { Shim::Absent } else { Shim::Fitted },
        cut: if arguments.power_off_overlay { Cut::Overlay } else { Cut::Hook },
        of_crew: of_crew.as_ref(),
    })?;
    // a secret that is spent on an image which nobody gets may be the only one that a node's new card had
    let mut keep = || match &of_crew {
        None => Ok(()),
        Some(OfCrew { drawn, .. }) => drawn.keep().map_err(|error| {
            let what = format!("the secret of {node}'s card is not kept in the crew's folder");
            Trouble::new(ExitCode::Failed, what, format!("{error:#}"), "prepare it again").with_code("enrolment")
        }),
    };
    let prepared = prepare::prepare_and(image, &card, &target, &mut keep)?;
    let goes_to = match &target {
        Target::Copy(out) => Some(out.clone()),
        Target::InPlace => Some(image.clone()),
        Target::DryRun => None,
    };
    Ok(report(&prepared, &card, goes_to))
}

fn report(prepared: &Prepared, card: &Card, goes_to: Option<PathBuf>) -> Said {
    let Prepared { kind, label, changed, unchanged, mode_was, written_bytes, copying, preparing } = prepared;
    let warnings = card.warnings(*kind);
    let mut text = format!("{kind}, boot partition {label:?}, card of {}\n", card.node);
    for file in changed {
        let _ = writeln!(text, "  {:<8} {:<32} {:>9} bytes  {}", file.change.word(), file.path, file.bytes, file.what);
    }
    let _ = writeln!(text, "{} files changed, {unchanged} as they should be", changed.len());
    if let Some(mode) = mode_was {
        let _ = writeln!(text, "the image's mode is 0600 now, it was {mode:04o}: there is a secret in it");
    }
    for warning in &warnings {
        let _ = writeln!(text, "note: {warning}");
    }
    let _ = match &goes_to {
        Some(path) => writeln!(
            text,
            "{}: ready, {:.1} s beyond the {:.1} s of copying. Next: beehive image flash --image {} --to DEVICE{}",
            path.display(),
            preparing.as_secs_f64(),
            copying.as_secs_f64(),
            path.display(),
            match &card.credentials {
                card::Credentials::Enrolment(_) => format!("; when the Pi is on: beehive crew enrol {}", card.node),
                card::Credentials::None | card::Credentials::NodeKeys(_) => String::new(),
            }
        ),
        None => writeln!(text, "dry run: nothing was written"),
    };
    let files: Vec<Value> = changed
        .iter()
        .map(|file| json!({ "path": file.path, "change": file.change.word(), "bytes": file.bytes, "what": file.what }))
        .collect();
    let millis = |time: &std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let document = json!({
        "image": kind.code(),
        "label": label,
        "node": card.node,
        "out": goes_to,
        "changed": files,
        "unchanged": unchanged,
        "mode_was": mode_was.map(|mode| format!("{mode:04o}")),
        "written_bytes": written_bytes,
        "copying_ms": millis(copying),
        "preparing_ms": millis(preparing),
        "notes": warnings,
    });
    Said { text, document }
}

/// Shows on a terminal how far it is.
struct Bar {
    bar: ProgressBar,
    stage: Option<Stage>,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::hidden();
        if io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let style = ProgressStyle::with_template("{msg:9} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar, stage: None }
    }
}

impl Progress for Bar {
    fn at(&mut self, stage: Stage, done: u64, of: u64) {
        if self.stage != Some(stage) {
            self.stage = Some(stage);
            self.bar.reset();
            self.bar.set_length(of);
            self.bar.set_message(match stage {
                Stage::Writing => "writing",
                Stage::Verifying => "verifying",
            });
        }
        self.bar.set_position(done);
    }
}

fn flash(arguments: &FlashArgs, machine: &Machine) -> Result<Said, Trouble> {
    let FlashArgs { image, to, yes, dry_run } = arguments;
    if image.extension().is_some_and(|extension| extension == "part") {
        return Err(refused(
            format!("{} is not written", image.display()),
            "a file that ends in .part is what a preparation that was cut off leaves",
            "prepare it again",
        ));
    }
    let mut file = File::open(image).map_err(|error| unreadable(&named(image, "open", &error)))?;
    let bytes = file.metadata().map_err(|error| unreadable(&named(image, "read", &error)))?.len();
    disk::boot_partition(&mut file).map_err(|error| {
        refused(format!("{} is no image of a Pi's card", image.display()), error.to_string(), "give an unpacked image")
    })?;
    let disk = machine.disk(to, bytes)?;
    let about = format!(
        "/dev/{} ({}, {} bytes)",
        disk.name,
        if disk.model.is_empty() { "no model" } else { &disk.model },
        disk.bytes
    );
    if *dry_run {
        let text = format!("dry run: {bytes} bytes of {} would be written to {about}\n", image.display());
        let document = json!({ "device": disk.name, "model": disk.model, "bytes": bytes, "written": false });
        return Ok(Said { text, document });
    }
    let consent = if *yes { Consent::Given } else { Consent::Ask };
    confirm(&mut OwnTerminal, consent, &format!("destroys everything on {about}"), &disk.name)?;
    // somebody may have mounted it, or changed the card, while the question stood there
    let disk = machine.disk(to, bytes)?;
    let mut card = flash::open(&disk)?;
    let mut bar = Bar::new();
    let written = flash::write(&mut file, &mut card, &mut bar);
    bar.bar.finish_and_clear();
    let written = written.map_err(|error| {
        Trouble::new(
            ExitCode::Failed,
            format!("/dev/{} does not hold the image", disk.name),
            error.to_string(),
            "write it again, or take another card",
        )
    })?;
    let text = format!("{} bytes written to {about} and read back: sha256 {}\n", written.bytes, written.sha256);
    let document = json!({
        "device": disk.name,
        "model": disk.model,
        "bytes": written.bytes,
        "sha256": written.sha256,
        "written": true,
    });
    Ok(Said { text, document })
}
