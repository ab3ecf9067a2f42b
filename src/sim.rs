//! `beehive sim`: crews in one thread with faults by seed, as the tests play them, and a violation walked through event by
//! event. It touches no crew, no broker and no network.

use crate::cli::{SimCommand, SimRunArgs};
use crate::console::ExitCode;
use anyhow::{Context, bail};
use beehive_sim::batch::{Batch, batch};
use beehive_sim::reached::ENOUGH;
use beehive_sim::{Options, Signing, shrink};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

/// The version of the files that a violation is kept in.
const FORMAT: u32 = 1;

/// A violation that somebody can replay.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    /// Another version of beehive may play the same seed differently.
    beehive: String,
    seed: u64,
    options: Options,
    faults: Vec<String>,
    why: String,
    log: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read or written.
pub fn run(command: &SimCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        SimCommand::Run(arguments) => seeds(arguments, json),
        SimCommand::Replay { file, step } => replay(file, if *step { Pace::Step } else { Pace::Through }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Step,
    Through,
}

fn seeds(arguments: &SimRunArgs, json: bool) -> anyhow::Result<ExitCode> {
    let signing = if arguments.real_signatures { Signing::Real } else { Signing::Hashed };
    let options = Options { events: arguments.events, signing, ..Options::default() };
    let (from, count) = (arguments.seeds.from, arguments.seeds.count);
    // hidden where standard error is no terminal
    let bar = ProgressBar::new(count);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {eta} left")?);
    let batch = batch(from, count, &options, &|done| bar.set_position(done));
    bar.finish_and_clear();
    let missing = if count >= ENOUGH { batch.reached.missing() } else { Vec::new() };
    let too_little = if count >= ENOUGH { batch.too_little() } else { None };
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", summary(&batch, &missing))?;
    } else {
        writeln!(out, "{}", batch.summary(from))?;
        for place in &missing {
            writeln!(out, "never reached: {place}")?;
        }
    }
    if let Some(why) = &too_little {
        eprintln!("beehive: {why}");
    }
    let Some(violation) = batch.violations.into_iter().next() else {
        let enough = missing.is_empty() && too_little.is_none();
        return Ok(if enough { ExitCode::Done } else { ExitCode::Failed });
    };
    eprintln!("beehive: seed {} broke a rule; looking for the fewest faults that it takes", violation.seed);
    let (violation, options) = shrink::shrink(violation, &options);
    let kept = Kept {
        format: FORMAT,
        beehive: env!("CARGO_PKG_VERSION").to_owned(),
        seed: violation.seed,
        faults: shrink::kinds(options.mask).into_iter().map(str::to_owned).collect(),
        options,
        why: violation.why,
        log: violation.log,
    };
    let path = arguments.out.clone().unwrap_or_else(|| format!("seed-{}.json", kept.seed).into());
    let text = serde_json::to_string_pretty(&kept)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("beehive: seed {}: {}", kept.seed, kept.why);
    eprintln!("beehive: with these faults alone: {}", kept.faults.join(", "));
    eprintln!("beehive: `beehive sim replay {} --step` walks through it", path.display());
    Ok(ExitCode::Failed)
}

fn summary(batch: &Batch, missing: &[&str]) -> serde_json::Value {
    serde_json::json!({
        "seeds": batch.seeds,
        "large_crews": batch.large,
        "events": batch.events,
        "least_events_of_a_seed": batch.least_events,
        "faults": batch.faults,
        "operations": batch.operations,
        "taken_up_again": batch.taken_up_again,
        "median_operations": batch.median_operations,
        "median_faults_per_operation": batch.median_faults_per_operation,
        "violations": batch.violations.iter().map(|found| found.seed).collect::<Vec<_>>(),
        "seconds": batch.took.as_secs_f64(),
        "seeds_per_second_and_processor": batch.per_second_and_processor(),
        "reached": batch.reached.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "never_reached": missing,
    })
}

fn replay(file: &Path, pace: Pace) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let kept: Kept = serde_json::from_str(&text)
        .with_context(|| format!("{} is no file that `beehive sim run` has written", file.display()))?;
    if kept.format != FORMAT {
        bail!(
            "{} is of format {}, and this program knows format {FORMAT}; use beehive {}",
            file.display(),
            kept.format,
            kept.beehive
        );
    }
    if kept.beehive != env!("CARGO_PKG_VERSION") {
        eprintln!(
            "beehive: {} was written by version {}; this one may play the seed differently",
            file.display(),
            kept.beehive
        );
    }
    eprintln!("beehive: seed {}, with these faults alone: {}", kept.seed, kept.faults.join(", "));
    // nobody is asked where nobody can answer
    let waits = pace == Pace::Step && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if waits {
        eprintln!("beehive: Enter shows the next event, a number so many, q ends");
    }
    let mut left = 0_u64;
    let ended = beehive_sim::watch(kept.seed, &kept.options, move |line| {
        if waits && left == 0 {
            left = next_stop();
        }
        left = left.saturating_sub(1);
        // a reader that has gone needs no more
        if writeln!(std::io::stdout(), "{line}").is_err() {
            std::process::exit(i32::from(ExitCode::Failed.number()));
        }
    });
    match ended {
        Ok(report) => {
            eprintln!(
                "beehive: no rule was broken in {} events: it is mended, or another version found it",
                report.events
            );
            Ok(ExitCode::Done)
        }
        Err(why) => {
            eprintln!("beehive: {why}");
            Ok(ExitCode::Failed)
        }
    }
}

/// How many events are to be shown before it stops again.
fn next_stop() -> u64 {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => std::process::exit(i32::from(ExitCode::Done.number())),
        Ok(_) if line.trim() == "q" => std::process::exit(i32::from(ExitCode::Done.number())),
        Ok(_) => line.trim().parse().unwrap_or(1),
    }
}
