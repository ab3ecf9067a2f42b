//! `beehive audit …`: reads the log on the coordinator's own machine.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use beehive_mqtt::sign::PublicKey;
use serde_json::json;

use super::{FOLDER, Fault, Head, Record, Report, What, Writers, read};
use crate::cli::AuditArgs;
use crate::config::Config;
use crate::console::exit::ExitCode;
use crate::keys::Identity;

/// What a command found, as text for standard output.
pub struct Found {
    /// The text.
    pub text: String,
    /// How the command ends.
    pub code: ExitCode,
}

fn log_of(args: &AuditArgs, each: impl FnMut(&Record)) -> anyhow::Result<(Report, std::path::PathBuf)> {
    let config = Config::load(&args.config)?;
    let dir = args.log.clone().unwrap_or_else(|| config.state_dir.join(FOLDER));
    let identity = Identity::load(&config.keys.dir)?;
    let manifest = identity.trust(None)?.keyring.manifest();
    let mut keys: Vec<PublicKey> = args.keys.clone();
    keys.extend(manifest.node(&manifest.coordinator).map(|node| node.sign));
    // its own, should another node coordinate now
    keys.push(identity.sign.public());
    let report = read(&dir, &Writers(keys), &args.heads, each)
        .with_context(|| format!("the audit log in {} cannot be read", dir.display()))?;
    Ok((report, dir))
}

/// Checks the log, back to each head that is named.
///
/// # Errors
/// If it cannot be read at all.
pub fn verify_log(args: &AuditArgs, json: bool) -> anyhow::Result<Found> {
    let (report, dir) = log_of(args, |_| {})?;
    let harmless = report.faults.iter().all(Fault::is_harmless);
    let code = if harmless { ExitCode::Done } else { ExitCode::Failed };
    if json {
        let faults: Vec<String> = report.faults.iter().map(Fault::to_string).collect();
        let document = json!({
            "log": dir, "first": report.first, "records": report.records, "head": report.head.to_string(),
            "whole": harmless, "faults": faults,
        });
        return Ok(Found { text: format!("{document}\n"), code });
    }
    let mut text = format!(
        "{}: {} records, from {} to {}\nhead {}\n",
        dir.display(),
        report.records,
        report.first,
        report.head.number,
        report.head
    );
    for fault in &report.faults {
        let _ = writeln!(text, "{fault}");
    }
    text.push_str(match (harmless, args.heads.is_empty()) {
        (true, false) => "whole, and it has every head that was named\n",
        (true, true) => {
            "whole; whether its end was cut off only a head can tell that somebody saw (`beehive audit head` on a console)\n"
        }
        (false, _) => "NOT WHOLE: keep the folder as evidence\n",
    });
    Ok(Found { text, code })
}

/// Prints the records.
///
/// # Errors
/// If the log cannot be read at all.
pub fn show(args: &AuditArgs, last: Option<usize>, json: bool) -> anyhow::Result<Found> {
    let mut lines = Vec::new();
    let (report, _) = log_of(args, |record| lines.push(line(record, json)))?;
    let skip = last.map_or(0, |last| lines.len().saturating_sub(last));
    let mut text: String = lines.into_iter().skip(skip).collect();
    let harmless = report.faults.iter().all(Fault::is_harmless);
    if !harmless && !json {
        text.push_str("NOT WHOLE: `beehive audit verify` says why\n");
    }
    Ok(Found { text, code: if harmless { ExitCode::Done } else { ExitCode::Failed } })
}

fn line(record: &Record, json: bool) -> String {
    if json {
        return serde_json::to_string(record).map(|text| format!("{text}\n")).unwrap_or_default();
    }
    let what = match &record.what {
        What::Started { term, session, version } => {
            format!("started: term {term}, session {session}, version {version}")
        }
        What::Asked { who, key, request, asked, status, code, operation } => {
            let operation = operation.as_ref().map(|id| format!(", operation {id}")).unwrap_or_default();
            let code = if code.is_empty() { String::new() } else { format!(" ({code})") };
            format!("{who} (key {key}) asked for {asked} (request {request}): {status}{code}{operation}")
        }
        What::Began { operation, detail } => format!("began {operation}: {detail}"),
        What::Ended { operation, detail } => format!("ended {operation}: {detail}"),
        What::Manifest { revision, term } => format!("manifest: revision {revision}, term {term}"),
        What::Refused { topic, why, more } => format!("refused {topic}: {why} (and {more} more before it)"),
        What::Mended { torn } => format!("a torn line was moved aside into {torn}"),
    };
    // strangers' texts are in here
    let what: String =
        what.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect();
    format!("{:>8}  {what}\n", record.number)
}

/// The last head that this user saw, for `--head` on the master.
pub fn head(path: &Path) -> anyhow::Result<Found> {
    let head: Option<Head> = super::Kept::open(path)?.head();
    Ok(match head {
        Some(head) => Found { text: format!("{head}\n"), code: ExitCode::Done },
        None => Found { text: String::new(), code: ExitCode::Failed },
    })
}
